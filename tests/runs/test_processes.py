"""Two processes with two devices each compute the same as one process, and exit together."""

import json
import shutil
import socket

import pytest

from tests.helpers import runs

EPOCHS, STEPS = 2, 4
FIELDS = {
    "num_epochs": EPOCHS,
    "batch_size": 16,
    "eval_batch_size": 100,
    "dataset.image_size": 8,
    "dataset.train_examples": 16 * STEPS + 3,
    "dataset.validation_examples": 21,
    "augment.crop_padding": 1,
    "augment.flip": True,
    "model.name": "mlp",
    "model.hidden_sizes": "(16,)",
    "model.batch_norm": True,
    "model.dropout": 0.2,
    "ema_decay": 0.9,
    # Adam would scale up small gradients together with their roundings.
    "optimizer.name": "sgd",
    "lr_schedule.name": "constant",
    "lr_schedule.learning_rate": 0.1,
}
# Saves within epochs, too.
OFTEN = {"steps_per_dispatch": 3, "checkpoint_minutes": 0}


@pytest.fixture(scope="module")
def run_two(folder):
    """run_two(args, second, point) starts two processes and returns how each of them ended.

    `second` are additional arguments of the second process; `point` is where it receives a signal.
    """

    def run(args, second=(), point=""):
        for attempt in range(2):
            cluster = [f"--coordinator_address=127.0.0.1:{runs.free_port()}", "--num_processes=2"]
            started = [
                runs.Started(
                    [*args, *cluster, f"--process_id={i}", *(second if i else ())],
                    folder / f"process_{i}.log",
                    devices=2,
                    point=point if i else "",
                    cache=folder / "compiled",
                )
                for i in range(2)
            ]
            first = started[0].wait()
            # Another program may have taken the port in the meantime: try once more.
            if attempt == 0 and "cannot listen on port" in first.output:
                started[1].kill()
                continue
            return first, started[1].wait()
        raise AssertionError("found no free port")

    return run


@pytest.fixture(scope="module")
def alone(folder, fields):
    workdir = folder / "alone"
    ended = runs.run(
        runs.arguments(workdir, fields), folder / "alone.log", cache=folder / "compiled"
    )
    assert ended.status == 0, ended.output
    return workdir


@pytest.fixture(scope="module")
def stopped(folder, fields, run_two):
    """How two processes ended when the second received SIGTERM, and a copy of their workdir."""
    args = runs.arguments(folder / "two", fields | OFTEN)
    ended = run_two(args, point="before_save:1:SIGTERM")
    shutil.copytree(folder / "two", folder / "copy")
    return ended, folder / "copy"


@pytest.fixture(scope="module")
def finished(folder, fields, run_two, stopped):
    """How the two ended when they were restarted, and their workdir."""
    return run_two(runs.arguments(folder / "two", fields | OFTEN)), folder / "two"


@pytest.fixture(scope="module")
def killed(folder, fields, run_two):
    """How two processes ended when the second was killed, how after a restart, and their workdir."""
    args = runs.arguments(folder / "killed", fields | OFTEN)
    return run_two(args, point="before_save:3:SIGKILL"), run_two(args), folder / "killed"


def said(output: str) -> list[str]:
    """Our own lines of the output. JAX's runtime also logs, from several threads at once."""
    assert "Traceback" not in output
    ours = ("error: ", "resuming ", "epoch ", "best on ", "last epoch ", "written:", "SIG")
    return [line for line in output.splitlines() if line.startswith(ours)]


def assert_same_run(a, b):
    last = EPOCHS * STEPS
    runs.assert_same_to_rounding(runs.read_state(a, last), runs.read_state(b, last))
    for mine, other in zip(runs.read_metrics(a), runs.read_metrics(b), strict=True):
        assert mine == pytest.approx(other, rel=1e-5)
    results = [json.loads((path / "report.json").read_text())["test"] for path in (a, b)]
    assert results[0]["confusion_matrix"] == results[1]["confusion_matrix"]


def test_a_signal_to_one_process_saves_and_ends_both(stopped):
    ended, workdir = stopped
    assert [end.status for end in ended] == [143, 143], ended
    assert runs.checkpoint_steps(workdir)[-1] == 3
    assert runs.unfinished_saves(workdir) == []
    assert "SIGTERM: saved at step 3" in ended[0].output


def test_two_restarted_processes_end_as_one(finished, alone):
    ended, workdir = finished
    assert [end.status for end in ended] == [0, 0], ended
    assert "after epoch 0, step 3 of 4" in ended[0].output
    assert json.loads((workdir / "report.json").read_text())["device"] == "4 x cpu"
    assert [entry["epoch"] for entry in runs.read_metrics(workdir)] == [1, 2]
    assert_same_run(workdir, alone)


def test_a_killed_process_ends_the_other_with_a_line(killed):
    (first, second), _, _ = killed
    assert second.status == -9
    assert first.status == 1
    line = said(first.output)[-1]
    assert line.startswith("error: another process of this run died")


def test_after_a_kill_both_resume_exactly(killed, finished):
    _, ended, workdir = killed
    assert [end.status for end in ended] == [0, 0], ended
    assert "resuming" in ended[0].output
    last = EPOCHS * STEPS
    runs.assert_same_bits(runs.read_state(workdir, last), runs.read_state(finished[1], last))
    assert runs.read_metrics(workdir) == runs.read_metrics(finished[1])


def test_only_the_first_process_prints(stopped, finished):
    for ended in (stopped[0], finished[0]):
        assert said(ended[0].output)
        assert said(ended[1].output) == []


def test_one_process_resumes_the_run_of_two(stopped, alone, fields, folder):
    _, workdir = stopped
    args = runs.arguments(workdir, fields)
    ended = runs.run(args, folder / "log", cache=folder / "compiled")
    assert ended.status == 0, ended.output
    assert_same_run(workdir, alone)


@pytest.mark.parametrize(
    ("second", "first_says", "second_says"),
    [
        # A mistake in one process only. If they did not agree first, the other would wait for minutes.
        ("--config.augment.cutout=9", "another process of this run stopped", "augment.cutout"),
        ("--config.seed=1", "differ in recipe or data", "differ in recipe or data"),
    ],
)
def test_what_stops_one_process_stops_both(
    second, first_says, second_says, run_two, fields, folder
):
    ended = run_two(runs.arguments(folder / "unlike", fields), [second])
    for end, words in zip(ended, (first_says, second_says), strict=True):
        assert end.status == 1
        (line,) = said(end.output)
        assert line.startswith("error: ")
        assert words in line
    assert not (folder / "unlike").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--coordinator_address=127.0.0.1", "--num_processes=2", "--process_id=0"], "HOST:PORT"),
        (["--coordinator_address=127.0.0.1:x", "--num_processes=2", "--process_id=0"], "HOST:PORT"),
        (["--coordinator_address=127.0.0.1:1", "--num_processes=2"], "--process_id"),
        (["--num_processes=2", "--process_id=0"], "--coordinator_address"),
        (["--distributed"], "--coordinator_address"),
    ],
)
def test_flags_that_name_no_cluster_are_answered_in_one_line(flags, words, folder, fields):
    ended = runs.run(runs.arguments(folder / "none", fields, *flags), folder / "log")
    assert ended.status == 1
    (line,) = ended.output.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_a_port_that_is_taken_is_answered_in_one_line(folder, fields):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        flags = [f"--coordinator_address=127.0.0.1:{port}", "--num_processes=2", "--process_id=0"]
        ended = runs.run(runs.arguments(folder / "none", fields, *flags), folder / "log")
    assert ended.status == 1
    (line,) = ended.output.splitlines()
    assert f"cannot listen on port {port}" in line


def test_several_processes_need_a_workdir(run_two, fields):
    for end in run_two([a for a in runs.arguments("", fields) if a != "--workdir="]):
        assert end.status == 1
        (line,) = said(end.output)
        assert "--workdir" in line
