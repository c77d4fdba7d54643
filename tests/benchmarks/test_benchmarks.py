"""The comparison with PyTorch detects sides that train differently; the speedrun's statistics are right."""

import dataclasses

import numpy as np
import pytest

from benchmarks import against_pytorch, common, driver, speedrun

LOSSES = np.array([2.3, 2.2, 2.1, 2.0])


def disagreement(ours, moved=LOSSES):
    return against_pytorch.disagreement(np.asarray(ours), LOSSES, moved, least=1e-5)


def test_losses_may_differ_by_ten_times_what_a_rounding_grows_to():
    moved = LOSSES * [1, 1, 1 + 1e-3, 1]
    assert disagreement(LOSSES) == ""
    assert disagreement(LOSSES * [1, 1, 1 + 9e-3, 1 - 9e-3], moved) == ""
    # At the second step, a rounding has not grown yet.
    assert "at step 2" in disagreement(LOSSES * [1, 1 + 9e-3, 1, 1], moved)
    assert "at step 4" in disagreement(LOSSES * [1, 1, 1, 1 + 2e-2], moved)
    assert "at step 1" in disagreement([np.nan, *LOSSES[1:]], moved)


def test_a_small_loss_may_be_off_by_what_a_large_one_may():
    tiny = np.array([1e-3])
    assert against_pytorch.disagreement(tiny + 5e-6, tiny, tiny, least=1e-5) == ""


def test_figures_have_three_digits():
    assert [common.figure(x) for x in (12345.6, 123.4, 1.234, 0.01234, 0)] == [
        "12,300",
        "123",
        "1.23",
        "0.0123",
        "0",
    ]


def test_a_worker_uses_the_cores_that_it_is_bound_to():
    before = driver.cores()
    with driver.bound_to(1):
        assert driver.cores() == 1
    assert driver.cores() == before


def test_pytorch_reproduces_the_losses_of_the_recipe_and_of_no_other(tmp_path):
    pytest.importorskip("torch")
    from benchmarks import pytorch

    statistics = driver.make_data(str(tmp_path), "synthetic", 100)
    job = driver.create_job(
        driver.recipe("lenet", batch_size=8),
        str(tmp_path),
        statistics,
        task="reference_training",
        reference=str(tmp_path / "reference.npz"),
    )
    # The 20 steps are more than one epoch.
    ours = np.array(driver.work("ours", job)["losses"])
    assert ours.shape == (20,)

    def compare(job):
        found = pytorch.check_training(job)
        theirs, moved = np.array(found["losses"]), np.array(found["moved"])
        return against_pytorch.disagreement(ours, theirs, moved, least=1e-5)

    assert compare(job) == ""
    optimizer = job.config["optimizer"] | {"nesterov": True}
    other = dataclasses.replace(job, config=job.config | {"optimizer": optimizer})
    # The first loss comes before the first step.
    assert "at step 2" in compare(other)


# The parts of airbench94_muon.py that the benchmark uses, for machines without a GPU, with made-up results.
RIVAL = """
import sys
import torch

with open(sys.argv[0]) as file:
    code = file.read()


class CifarNet:
    def cuda(self):
        return self

    def to(self, memory_format):
        return self

    def compile(self, mode):
        print("compiling", mode)


def print_training_details(variables, is_final_entry):
    raise AssertionError("printed")


def main(run, model):
    data = torch.load("cifar10/test.pt")
    assert data["images"].shape == (20, 32, 32, 3) and data["images"].dtype == torch.uint8
    assert len(torch.load("cifar10/train.pt")["labels"]) == 100
    time_seconds, val_acc, tta_val_acc = 2.0, 0.25, 0.5 if run == "warmup" else run / 10
    print("run", run)
    print_training_details(locals(), is_final_entry=True)
    return tta_val_acc


if __name__ == "__main__":
    raise AssertionError("run as a script")
"""


def test_the_speedrun_trains_in_turn_with_its_rival(tmp_path, capfd):
    pytest.importorskip("torch")
    (tmp_path / "rival.py").write_text(RIVAL)
    sizes = ["--images=100", "--batch_size=50", "--epochs=1", "--width=0.0625"]
    args = [*sizes, "--data=synthetic", "--runs=2", f"--rival={tmp_path / 'rival.py'}"]
    assert driver.run_command(speedrun.compare, speedrun.arguments(args)) == 0
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if line.startswith(("ours ", "rival "))]
    assert [line.split(":")[0] for line in lines] == ["ours 0", "rival 0", "ours 1", "rival 1"]
    rows = [line.strip("| ").split(" | ") for line in out.splitlines() if line.startswith("| ")]
    _, _, ours, rival = rows
    assert (ours[:2], rival[:2]) == (["ours", "2"], ["rival", "2"])
    # Accuracies 0 and 0.1: mean 5 %, deviation sqrt(0.005), and 12.706 standard errors on either side.
    assert rival[3] == "5.000 % (deviation 7.071; -58.531 to 68.531)"
    assert rival[2].startswith("25.000 % (deviation 0.000")
    assert rival[4:7] == ["-", "-", "2.00 (2.00 to 2.00)"]
    train, whitened, evaluated = (float(cell.split()[0]) for cell in ours[4:7])
    assert 0 < train < whitened < evaluated < float(ours[7])
    assert "run by run" in out


def test_a_worker_of_the_speedrun_that_fails_ends_it_in_one_line(monkeypatch, capfd):
    monkeypatch.setattr(driver, "ROOT", "/")  # there are no workers there
    args = ["--images=100", "--batch_size=50", "--data=synthetic", "--runs=1"]
    assert driver.run_command(speedrun.compare, speedrun.arguments(args)) == 1
    assert "error: the worker of ours failed, see above" in capfd.readouterr().err
