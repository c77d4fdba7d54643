"""The comparison with PyTorch notices when the two sides do not train alike."""

import dataclasses

import numpy as np
import pytest

from benchmarks import against_pytorch, common, driver

LOSSES = np.array([2.3, 2.2, 2.1, 2.0])


def disagreement(ours, moved=LOSSES):
    return against_pytorch.disagreement(np.asarray(ours), LOSSES, moved, least=1e-5)


def test_losses_may_differ_by_ten_times_what_a_rounding_grows_to():
    moved = LOSSES * [1, 1, 1 + 1e-3, 1]
    assert disagreement(LOSSES) == ""
    assert disagreement(LOSSES * [1, 1, 1 + 9e-3, 1 - 9e-3], moved) == ""
    # At the second step a rounding has not grown yet.
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
    # More steps than an epoch has.
    # What is compiled need not be fast.
    quick = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    ours = np.array(driver.work("ours", job, **quick)["losses"])
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
