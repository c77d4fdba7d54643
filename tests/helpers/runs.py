"""Starts `main.py` in separate processes, stops it at exact points, and reads what a run wrote.

A server that has imported JAX, but not started it, forks the processes. That saves the seconds of
importing. A process can stop itself at one of the POINTS, so a test hits the middle of a save every time.
The output files are read with Orbax and JSON, not with our code.
"""

import atexit
import dataclasses
import hashlib
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing import forkserver
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from cifar_jax.inference import weights
from cifar_jax.ops import cpu_kernels
from cifar_jax.reporting import plots
from cifar_jax.storage import checkpoint
from cifar_jax.storage import workdir as files_of
from cifar_jax.training import report

# Compile the kernels before the first fork, because tests have cache folders of their own.
cpu_kernels.version()

# Compiling takes much longer than running here, so it leaves out most optimisations.
XLA_FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# Later versions have no such flag, and an unknown one ends the process.
HAS_FUSION_EMITTERS_FLAG = jax.__version_info__ < (0, 11, 1)
if HAS_FUSION_EMITTERS_FLAG:
    XLA_FLAGS += " --xla_cpu_use_fusion_emitters=false"
ROOT = Path(__file__).resolve().parents[2]
# On two busy cores, nothing here takes a tenth of this.
DEADLINE_SECONDS = 300
# Part of the name of a folder that Orbax has not committed yet.
UNFINISHED = ".orbax-checkpoint-tmp"
# A file of every checkpoint.
METADATA = "_CHECKPOINT_METADATA"
BEST = "best.safetensors"


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended."""

    # The negative number of the signal if a signal killed it.
    status: int
    # Standard output and standard error together.
    output: str


def arguments(workdir, fields: dict, *more: str) -> list[str]:
    """The command line of a run on digits, with fields such as {"model.name": "mlp"}."""
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    return ["--config=configs/quickstart.py", *flags, f"--workdir={workdir}", *more]


class Started:
    """A process that runs `main.py` to its end or to `point`, without drawing plots.

    `cache` is its folder of compiled programs. Without one, it compiles everything itself.
    """

    def __init__(self, args: list[str], log: Path, devices: int = 1, point: str = "", cache=None):
        self._log = log
        self._process = context().Process(
            target=plotless_child, args=(args, log, devices, point, cache)
        )
        self._process.start()

    def wait(self) -> Ended:
        self._process.join(DEADLINE_SECONDS)
        if self._process.exitcode is None:
            self.kill()
            raise TimeoutError(f"it did not end; it printed: {self._log.read_text()}")
        return Ended(self._process.exitcode, self._log.read_text())

    def send(self, number: int) -> None:
        """Sends the process a signal."""
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()


class StartedPlainly:
    """A run in a new Python, not a fork, with settings in its environment. It compiles everything itself."""

    def __init__(self, args: list[str], log: Path, **settings: str):
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags(1), **settings}
        self._log = log
        with open(log, "w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "main.py", "--compiled=off", *args],
                cwd=ROOT,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def wait(self) -> Ended:
        try:
            status = self._process.wait(DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        return Ended(status, self._log.read_text())


def run(args: list[str], log: Path, devices: int = 1, point: str = "", cache=None) -> Ended:
    """Runs `main.py` and waits until it ends."""
    return Started(args, log, devices, point, cache).wait()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# What a run wrote.


def checkpoint_steps(workdir) -> list[int]:
    """The steps of the committed checkpoints, ascending."""
    return sorted(int(path.name) for path in _checkpoints(workdir).iterdir() if path.name.isdigit())


def unfinished_saves(workdir) -> list[str]:
    """The folders of saves that began and were not committed."""
    return [path.name for path in _checkpoints(workdir).iterdir() if UNFINISHED in path.name]


def partial_checkpoints(workdir) -> list[int]:
    """The steps of checkpoints that were partly deleted."""
    present = _checkpoints(workdir)
    return [s for s in checkpoint_steps(workdir) if not (present / str(s) / METADATA).exists()]


def read_state(workdir, step: int) -> dict[str, np.ndarray]:
    """Every leaf of a checkpoint by name."""
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        state = checkpointer.restore((_checkpoints(workdir) / str(step) / "state").absolute())
    return {name: np.asarray(leaf) for name, leaf in state.items()}


def read_metrics(workdir) -> list[dict]:
    """The lines of metrics.jsonl, without times and speeds."""
    path = Path(workdir) / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    entries = [json.loads(line) for line in lines]
    return [
        {k: v for k, v in entry.items() if k not in ("seconds", "images_per_second")}
        for entry in entries
    ]


def digests(folder) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def assert_same_bits(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    """Asserts equal names, types, shapes and bits of all leaves, including NaNs and signs of zeros."""
    assert a.keys() == b.keys()
    differing = [
        name
        for name in a
        if (a[name].dtype, a[name].shape, a[name].tobytes())
        != (b[name].dtype, b[name].shape, b[name].tobytes())
    ]
    assert not differing


def assert_same_to_rounding(a: dict[str, np.ndarray], b: dict[str, np.ndarray], limit=1e-5) -> None:
    """Asserts that each leaf differs by at most `limit` of its largest value, and integers not at all."""
    assert a.keys() == b.keys()
    differences = {}
    for name in a:
        assert a[name].shape == b[name].shape
        if a[name].dtype.kind == "f":
            scale = np.abs(a[name]).max()
            differences[name] = np.abs(a[name] - b[name]).max() / (scale or 1)
        else:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert {name: x for name, x in differences.items() if not x <= limit} == {}


def _checkpoints(workdir) -> Path:
    return Path(workdir) / "checkpoints"


# Where a run sends itself a signal. "before_commit:2:SIGKILL" means: when it reaches that point again.


def before_save(end, count):
    """Before a save has written anything."""
    _before(checkpoint.Checkpoints, "save", count, end)


def before_commit(end, count):
    """In the middle of a save: everything is written, but the rename that commits it has not happened."""
    _before_rename(count, end)


def before_commit_after_files(end, count):
    """As before_commit, but metrics.jsonl and best.safetensors already have the epoch that is being saved."""
    known = len(read_metrics(_workdir()))

    def end_late():
        while len(read_metrics(_workdir())) <= known or not (_workdir() / BEST).exists():
            time.sleep(0.01)
        end()

    _before_rename(count, end_late)


def before_metrics(end, count):
    """The epoch's checkpoint is committed, but its line in metrics.jsonl is not written."""
    end = _after_commit(end)
    _before(report, "write_history", count, end, when=lambda metrics, history: bool(history))


def before_weights(end, count):
    """The epoch's checkpoint is committed, but best.safetensors is not written."""
    _before(weights, "save", count, _after_commit(end))


def in_delete(end, count):
    """A new checkpoint is committed, and an old one is partly deleted."""

    def is_checkpoint(path, *rest):
        if not Path(path).name.isdigit():
            return False
        os.unlink(Path(path) / METADATA)
        return True

    _before(shutil, "rmtree", count, end, when=is_checkpoint)


POINTS = {
    point.__name__: point
    for point in (
        before_save,
        before_commit,
        before_commit_after_files,
        before_metrics,
        before_weights,
        in_delete,
    )
}


def _before(module, name, count, end, when=lambda *args: True):
    """Calls `end` before the `count`-th call of a function for which `when` is true."""
    original = getattr(module, name)
    left = [count]

    def replacement(*args, **kwargs):
        if when(*args):
            left[0] -= 1
            if left[0] == 0:
                end()
        return original(*args, **kwargs)

    setattr(module, name, replacement)


def _before_rename(count, end):
    # Orbax also renames the parts of a checkpoint, inside its folder.
    def commits(source, *rest):
        path = Path(source)
        return UNFINISHED in path.name and path.parent.name == "checkpoints"

    _before(os, "rename", count, end, when=commits)


def _workdir() -> Path:
    (workdir,) = [arg.partition("=")[2] for arg in sys.argv if arg.startswith("--workdir=")]
    return Path(workdir)


def _after_commit(end):
    """A function that waits until the last save is committed and then calls `end`."""
    original, begun = checkpoint.Checkpoints.save, []

    def save(self, state, *args):
        begun.append(int(state.step))
        original(self, state, *args)

    def end_late():
        while begun and begun[-1] not in checkpoint_steps(_workdir()):
            time.sleep(0.01)
        end()

    checkpoint.Checkpoints.save = save
    return end_late


# The server and its children.


def context() -> multiprocessing.context.BaseContext:
    """The multiprocessing context of the server. The first use starts it."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.helpers.preload", "tests.helpers.runs"])
    # The server finds this module only through the environment.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([before] if before else [])])
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return server


def flags(devices: int) -> str:
    return f"{XLA_FLAGS} --xla_force_host_platform_device_count={devices}"


def draw_nothing():
    """Lets this process write empty files instead of the plots of a run, which take two seconds."""

    def empty(path, *args):
        Path(path).touch()

    plots.plot_history = plots.plot_confusion = empty
    report.draw_first_batch = lambda run: empty(run.path(files_of.FIRST_BATCH))


def plotless_child(args, log, devices, point, cache):
    """`child` without drawing."""
    draw_nothing()
    child(args, log, devices, point, cache)


def child(args, log, devices, point, cache):
    """Turns this process into `python main.py ARGS`, with the same JAX, signals and exit status."""
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ["XLA_FLAGS"] = flags(devices)
    jax.config.update("jax_platforms", "cpu")
    if not cache:
        args = ["--compiled=off", *args]
    else:
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    os.chdir(ROOT)
    sys.argv = ["main.py", *args]
    if point:
        name, count, ending = point.split(":")
        number = signal.Signals[ending]
        POINTS[name](lambda: os.kill(os.getpid(), number), int(count))
    try:
        runpy.run_path("main.py", run_name="__main__")
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    # A fork that returned from here would skip what Python does when it exits.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
