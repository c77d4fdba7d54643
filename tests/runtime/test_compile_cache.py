"""The compile cache: a cached program gives the same bits, a damaged one is compiled again.

A cache that cannot be used costs a warning, never a run.
"""

import os
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from cifar_jax.runtime import compile_cache
from tests.helpers import runs

HIT = "/jax/compilation_cache/cache_hits"


def program(x):
    return jax.numpy.tanh(x @ x).sum(0)


def _child(folder, before, log, queue):
    sys.stderr = open(log, "w")  # noqa: SIM115
    jax.config.update("jax_platforms", "cpu")
    events = []
    jax.monitoring.register_event_listener(lambda event, **more: events.append(event))
    compile_cache.enable(str(folder))
    if before:
        jax.jit(jax.numpy.negative)(1.0)
        before(folder)
    result = jax.jit(program)(np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64))
    sys.stderr.flush()
    queue.put((np.asarray(result).tobytes(), events.count(HIT)))


@pytest.fixture
def start(tmp_path):
    """start(folder, before) runs a program in a new process and returns (bits, loaded, standard error).

    If `before` is given, the process first runs another program and then calls before(folder).
    """

    def run(folder, before=None):
        context = runs.context()
        queue, log = context.SimpleQueue(), tmp_path / "log"
        process = context.Process(target=_child, args=(folder, before, log, queue))
        process.start()
        bits, hits = queue.get()
        process.join(runs.DEADLINE_SECONDS)
        return bits, hits == 1, log.read_text()

    return run


def entries(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_second_start_loads_the_same_bits(tmp_path, start):
    folder = tmp_path / "compiled"
    compiled, loaded, said = start(folder)
    assert not loaded
    assert said == ""
    assert len(entries(folder)) == 1
    assert start(folder) == (compiled, True, "")


def test_a_program_of_another_machine_is_not_loaded(tmp_path, start, monkeypatch):
    folder = tmp_path / "compiled"
    start(folder)
    (place,) = folder.iterdir()
    assert place.name == compile_cache.machine()
    place.rename(folder / "another")
    assert not start(folder)[1]


@pytest.mark.parametrize("size", [0, 700])
def test_a_damaged_program_is_made_again(tmp_path, start, size):
    folder = tmp_path / "compiled"
    bits, _, _ = start(folder)
    (entry,) = entries(folder)
    whole = entry.stat().st_size
    os.truncate(entry, size)
    assert start(folder) == (bits, False, "")
    assert entry.stat().st_size == pytest.approx(whole, rel=0.01)
    assert start(folder) == (bits, True, "")


def test_off_keeps_nothing(tmp_path, start, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, loaded, said = start(compile_cache.OFF)
    assert not loaded
    assert said == ""
    assert not os.path.exists(compile_cache.OFF)


def _remove(folder):
    shutil.rmtree(folder)
    folder.write_text("no folder any more")


@pytest.mark.parametrize("when", ["at the start", "later"])
def test_a_folder_that_cannot_be_written_costs_one_line(tmp_path, start, when):
    folder = tmp_path / "compiled"
    if when == "at the start":
        folder.write_text("no folder")
    _, loaded, said = start(folder, _remove if when == "later" else None)
    assert not loaded
    (line,) = said.splitlines()
    assert line.startswith(f"warning: compiled programs cannot be cached in {folder}")


def test_what_was_not_used_for_longest_is_deleted(tmp_path):
    (tmp_path / "machine").mkdir()
    for age, name in enumerate("dcba"):
        path = tmp_path / "machine" / name
        path.write_bytes(bytes(10))
        os.utime(path, (1e9 - age, 1e9 - age))
    compile_cache.delete_oldest(tmp_path, 25)
    assert [path.name for path in entries(tmp_path)] == ["c", "d"]


def test_the_start_is_that_of_the_process():
    code = (
        "import time; time.sleep(0.3); from cifar_jax.system import start_time; "
        "print(start_time.seconds_since_start())"
    )
    before = time.monotonic()
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=runs.ROOT, capture_output=True, text=True, check=True
    )
    assert 0.3 <= float(said.stdout) <= time.monotonic() - before + 0.02
