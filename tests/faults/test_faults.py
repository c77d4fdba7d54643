"""A run that is hurt by kills, signals, damage or disks reports it in one line and ends as an unhurt one.

A short part of `python -m tests.faults.run`, and the faults that cannot be left to chance.
"""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from cifar_jax.errors import UserError
from cifar_jax.storage import lock
from tests.faults import hurting
from tests.faults.run import FaultTest
from tests.helpers import runs

# Four steps per epoch; the network compiles fast.
FIELDS = {
    "num_epochs": 2,
    "batch_size": 16,
    "dataset.image_size": 8,
    "dataset.train_examples": 64,
    "augment.crop_padding": 0,
    "model.name": "mlp",
    "model.batch_norm": False,
    "model.hidden_sizes": "(64,)",
    "lr_schedule.name": "constant",
    "lr_schedule.boundaries": "()",
}


@pytest.fixture(scope="module")
def start(folder, fields):
    """start(workdir, place) runs the recipe in a workdir, with a fault at a place. Returns how it ended."""

    def start(workdir, place=""):
        args = runs.arguments(workdir, fields)
        name, _, count = place.partition(":")
        process = runs.context().Process(
            target=hurting.child,
            args=(
                args,
                folder / "log",
                folder / "programs",
                folder / "note",
                name,
                int(count or 1),
            ),
        )
        process.start()
        process.join(runs.DEADLINE_SECONDS)
        assert process.exitcode is not None, (folder / "log").read_text()
        return runs.Ended(process.exitcode, (folder / "log").read_text())

    return start


@pytest.fixture(scope="module")
def unhurt(folder, start):
    ended = start(folder / "unhurt")
    assert ended.status == 0, ended.output
    return folder / "unhurt"


def assert_resumes(start, workdir, unhurt):
    """Asserts that the same command finishes the run, which then equals an unhurt one."""
    ended = start(workdir)
    assert ended.status == 0, ended.output
    assert_same_end(workdir, unhurt)


def assert_same_end(workdir, unhurt):
    runs.assert_same_bits(runs.read_state(workdir, 8), runs.read_state(unhurt, 8))
    assert runs.read_metrics(workdir) == runs.read_metrics(unhurt)
    assert (workdir / runs.BEST).read_bytes() == (unhurt / runs.BEST).read_bytes()
    assert set(os.listdir(workdir)) == set(os.listdir(unhurt))


def the_error(ended: runs.Ended) -> str:
    assert ended.status == 1, ended.output
    assert "Traceback" not in ended.output
    assert "Exception" not in ended.output
    (line,) = [line for line in ended.output.splitlines() if line.startswith("error: ")]
    return line


def test_a_run_that_is_hurt_at_random_ends_as_an_unhurt_one(tmp_path):
    test = FaultTest(tmp_path, seed=4)
    test.start_unhurt()
    test.round(most_faults=1)
    assert test.differences == []
    assert test.starts > 1


def _hold(workdir, taken, never):
    with lock.Lock(workdir) as held:
        held.acquire()
        taken.set()
        never.wait()


def test_a_second_run_is_refused_until_the_first_is_dead(tmp_path):
    context = runs.context()
    taken, never = context.Event(), context.Event()
    first = context.Process(target=_hold, args=(tmp_path, taken, never))
    first.start()
    assert taken.wait(runs.DEADLINE_SECONDS)
    with lock.Lock(tmp_path) as second:
        with pytest.raises(UserError) as error:
            second.acquire()
        assert f"process {first.pid} on {socket.gethostname()}" in str(error.value)
        assert "\n" not in str(error.value)
        first.kill()
        first.join()
        second.acquire()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("alive", [True, False])
def test_on_a_file_system_without_locks_the_process_is_looked_up(tmp_path, monkeypatch, alive):
    def flock(descriptor, operation):
        raise OSError(lock.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    holder = {"pid": process.pid, "host": socket.gethostname(), "since": "now"}
    (tmp_path / lock.NAME).write_text(json.dumps(holder))
    if not alive:
        process.communicate()
    with lock.Lock(tmp_path) as held:
        if alive:
            with pytest.raises(UserError, match=f"process {process.pid} on"):
                held.acquire()
            process.communicate()
        else:
            held.acquire()


def test_main_refuses_a_workdir_in_use_and_leaves_it_as_it_is(folder, start, unhurt):
    with lock.Lock(unhurt) as held:
        held.acquire()
        before = runs.digests(unhurt)
        assert f"in use by a run (process {os.getpid()} on" in the_error(start(unhurt))
        assert runs.digests(unhurt) == before


@pytest.mark.parametrize("place", ["SIGINT in data", "SIGTERM in compile"])
def test_a_signal_at_the_start_stops_it_without_a_stack_trace(start, tmp_path, place):
    ended = start(tmp_path / "run", place)
    name = place.partition(" ")[0]
    assert ended.status == 128 + signal.Signals[name]
    assert ended.output.splitlines() == [
        f"{name}: stopped; everything saved so far is kept; to resume, run the same command with",
        f"  --workdir={tmp_path / 'run'}",
    ]
    assert not (tmp_path / "run" / lock.NAME).exists()


def test_a_second_signal_exits_at_once(start, tmp_path, unhurt):
    workdir = tmp_path / "run"
    ended = start(workdir, "SIGINT twice:1")
    assert ended.status == 130
    assert "SIGINT: saving, then exiting" in ended.output
    assert ended.output.splitlines()[-1] == f"  --workdir={workdir}"
    assert "saved at step" not in ended.output
    assert_resumes(start, workdir, unhurt)


def test_a_workdir_that_disappears_stops_the_run_until_it_is_back(start, tmp_path, unhurt):
    workdir = tmp_path / "run"
    line = the_error(start(workdir, "workdir moved:2"))
    assert f"{workdir} is gone" in line
    assert not workdir.exists()
    (tmp_path / "run.moved").rename(workdir)
    assert runs.checkpoint_steps(workdir) == [4]
    assert_resumes(start, workdir, unhurt)


@pytest.fixture(scope="module")
def on_a_disk(folder, fields, start, unhurt):
    """How three starts ended, on a full disk, a read-only one and a usable one; and a copy of the workdir.

    If this process may not mount a disk, large files fail instead, and the folder is not writable.
    """
    disk = folder / "disk"
    disk.mkdir()
    workdir, copy = disk / "run", folder / "copy"
    starts = [("rw", "disk full in save"), ("ro", ""), ("rw", "")]
    if not hurting.can_mount():
        ended = []
        for options, place in starts:
            if workdir.exists():
                workdir.chmod(0o555 if options == "ro" else 0o755)
            ended.append(start(workdir, place and f"{place}:2"))
        return ended, workdir
    files = [(folder / f"disk_{i}.log", folder / f"disk_{i}.status") for i in range(len(starts))]
    starts = [(*start, *paths) for start, paths in zip(starts, files, strict=True)]
    args = runs.arguments(workdir, fields)
    common = (args, folder / "programs", folder / "note")
    process = runs.context().Process(target=hurting.on_a_disk, args=(disk, copy, starts, common))
    process.start()
    process.join(runs.DEADLINE_SECONDS)
    assert process.exitcode == 0
    ended = [runs.Ended(int(status.read_text()), log.read_text()) for log, status in files]
    return ended, copy / "run"


def test_a_full_disk_is_reported_in_one_line(on_a_disk):
    (full, _, _), _ = on_a_disk
    assert the_error(full).endswith(("No space left on device", "File too large"))
    assert "epoch 1/2" in full.output


def test_a_read_only_disk_is_reported_in_one_line(on_a_disk):
    (_, read_only, _), _ = on_a_disk
    if hurting.can_mount() or os.geteuid() != 0:
        assert "cannot write in" in the_error(read_only)


def test_with_space_again_a_run_resumes_from_its_last_checkpoint(on_a_disk, unhurt):
    (*_, last), workdir = on_a_disk
    assert last.status == 0, last.output
    assert "after epoch 1, step 0 of 4" in last.output
    assert_same_end(workdir, unhurt)


def test_a_strange_environment_changes_nothing(tmp_path, unhurt):
    """Another encoding, no home, a path with a space and a non-ASCII letter, a closed standard output."""
    workdir = tmp_path / "a run é"
    args = runs.arguments(workdir, FIELDS | {"dataset.cache_dir": tmp_path / "é" / "images"})
    environment = {
        k: v for k, v in os.environ.items() if k not in ("XDG_CACHE_HOME", "GLIBC_TUNABLES")
    }
    environment |= {
        "JAX_PLATFORMS": "cpu",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
        "HOME": "/dev/null/nobody",
    }
    process = subprocess.Popen(
        [sys.executable, "main.py", *args],
        cwd=runs.ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    said = process.stderr.read().decode()
    assert process.wait(runs.DEADLINE_SECONDS) == 0, said
    assert "Traceback" not in said
    assert "warning: compiled programs cannot be cached" in said
    assert_same_end(workdir, unhurt)
