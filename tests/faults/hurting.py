"""Faults from within the process of a run: it dies, or its disk is full, at an exact place.

Places are mostly the run's own calls that change files. They are counted, and any of them may be the last.
The process notes its phase in a file, so that kills can be counted by phase.
"""

import contextlib
import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from cifar_jax.data import datasets
from cifar_jax.inference import evaluate, weights
from cifar_jax.reporting import TensorBoard, plots, reports
from cifar_jax.steps import training
from cifar_jax.storage import checkpoint
from cifar_jax.system import files, interruption
from cifar_jax.training import report, start
from cifar_jax.training.loop import Loop
from tests.helpers import runs

# Python's audit events for changes of a folder: deleting, renaming, creating folders and links.
_CHANGES = (
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.truncate",
    "os.link",
    "os.symlink",
)
_NOTE_BYTES = 64
BEFORE_TRAINING = (
    "",
    "start-up",
    "data and their cache",
    "first weights",
    "restoring",
    "tensorboard",
    "best.safetensors",
    "metrics.jsonl",
    "compile",
)
# A file that fills a disk.
FILLER = "filler"


def child(args, log, cache, note, place="", count=1, clock=0.0) -> None:
    """Runs `main.py` as `runs.Started` does, with one fault.

    Args:
      args: the command line.
      log: the file for the output.
      cache: a folder for compiled programs.
      note: the file for the phase.
      place: a name in `PLACES`, or "" for no fault from within.
      count: strike when the run reaches the place for this many-th time, from 1.
      clock: the error of the clock in seconds.
    """
    interruption.hold()  # as in the first line of main.py
    follow_phases(Path(note))
    if clock:
        now, now_ns = time.time, time.time_ns
        time.time = lambda: now() + clock
        time.time_ns = lambda: now_ns() + int(clock * 1e9)
    if place:
        PLACES[place](count, [os.path.realpath(folder) for folder in folders_of(args)])
    runs.child(args, log, 1, "", cache)


def folders_of(args: list[str]) -> list[str]:
    """The workdir of a command line and its cache of images."""
    values = {name: value for name, _, value in (arg.partition("=") for arg in args)}
    return [values["--workdir"], values["--config.dataset.cache_dir"]]


def read_phase(note: Path) -> str:
    """The phase that a process noted last."""
    try:
        return note.read_text().strip("\0 ")
    except FileNotFoundError:
        return "start-up"


# Places.


def _kill_at_a_file(count: int, folders: list[str]) -> None:
    """Dies before it opens a file for writing, renames, deletes or creates a folder."""
    _at_a_change(count, folders, _die)


def _kill_in_a_write(count: int, folders: list[str]) -> None:
    """Dies when it has written half of a file."""
    del folders
    sync, left = files._sync, [count]

    def replacement(path):
        if os.path.isfile(path):
            left[0] -= 1
            if left[0] == 0:
                os.truncate(path, os.path.getsize(path) // 2)
                _die()
        sync(path)

    files._sync = replacement


def _disk_full(count: int, folders: list[str]) -> None:
    """From the place on, this process cannot write files larger than a page, so weights no longer fit."""
    _at_a_change(count, folders, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)))


def _disk_full_in_save(count: int, folders: list[str]) -> None:
    """The same from a save on. If the run has a disk of its own (`on_a_disk`), that disk really fills up."""
    workdir = Path(folders[0])

    def fill():
        if not workdir.parent.is_mount():
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
            return
        with contextlib.suppress(OSError), open(workdir.parent / FILLER, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    _at_a_save(count, fill)


def _workdir_moved(count: int, folders: list[str]) -> None:
    """Renames the workdir before a save."""
    _at_a_save(count, lambda: os.rename(folders[0], folders[0] + ".moved"))


def _sigint_in_data(count: int, folders: list[str]) -> None:
    del folders
    runs._before(datasets, "load", count, lambda: _send(signal.SIGINT))


def _sigterm_in_compile(count: int, folders: list[str]) -> None:
    del folders
    runs._before(training, "train_step", count, lambda: _send(signal.SIGTERM))


def _sigint_twice(count: int, folders: list[str]) -> None:
    del folders

    def twice():
        for _ in range(2):  # immediate repeats count as one signal
            os.kill(os.getpid(), signal.SIGINT)
            while interruption._noting.noted is None:
                time.sleep(0.001)
        time.sleep(interruption.ECHO_SECONDS)
        _send(signal.SIGINT)

    runs._before(checkpoint.Checkpoints, "save", count, twice)


def _send(number: int) -> None:
    """Sends this process a signal and waits until it ends the process."""
    os.kill(os.getpid(), number)
    time.sleep(runs.DEADLINE_SECONDS)


PLACES = {
    "kill at a file": _kill_at_a_file,
    "kill in a write": _kill_in_a_write,
    "disk full": _disk_full,
    "disk full in save": _disk_full_in_save,
    "workdir moved": _workdir_moved,
    "SIGINT in data": _sigint_in_data,
    "SIGTERM in compile": _sigterm_in_compile,
    "SIGINT twice": _sigint_twice,
}


def _at_a_save(count: int, action) -> None:
    """Calls `action` before a save, once the previous save is committed."""
    save, left = checkpoint.Checkpoints.save, [count]

    def replacement(self, *args):
        left[0] -= 1
        if left[0] == 0:
            self.wait()
            action()
        save(self, *args)

    checkpoint.Checkpoints.save = replacement


def _at_a_change(count: int, folders: list[str], action) -> None:
    left = [count]

    def hook(event, args):
        if left[0] <= 0:
            return
        if event == "open":
            path, _, flags = args
            counts = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            path, counts = args[0] if args else None, event in _CHANGES
        if not counts or not isinstance(path, str | bytes | os.PathLike):
            return
        if not os.path.abspath(os.fsdecode(path)).startswith(tuple(folders)):
            return
        left[0] -= 1
        if left[0] == 0:
            action()

    sys.addaudithook(hook)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# Disks.


def can_mount() -> bool:
    """Whether this process may mount a disk, which needs root."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def on_a_disk(disk: Path, copy: Path, starts: list, common: tuple) -> None:
    """Starts runs on a small disk that only this process and its children see. Needs a process of its own.

    Args:
      disk: the folder to mount the disk at.
      copy: the folder to copy its content to at the end.
      starts: for each start the mount option ("rw" or "ro"), the place of a fault, the file for the output
        and the file for the exit status.
      common: the other arguments of `child`: (args, cache, note).
    """
    args, cache, note = common
    # From here on, mounts are visible only to this process and its children.
    if ctypes.CDLL(None, use_errno=True).unshare(0x00020000):
        raise OSError(ctypes.get_errno(), "unshare")
    _mount("--make-rprivate", "/")
    _mount("-t", "tmpfs", "-o", "size=8m", "none", disk)
    for options, place, log, status in starts:
        _mount("-o", "remount,rw", disk)
        (disk / FILLER).unlink(missing_ok=True)
        _mount("-o", f"remount,{options}", disk)
        pid = os.fork()
        if pid == 0:
            child(args, log, cache, note, place, 2)
        _, code = os.waitpid(pid, 0)
        Path(status).write_text(str(os.waitstatus_to_exitcode(code)))
    shutil.copytree(disk, copy)


def _mount(*arguments) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


# Phases.


def follow_phases(note: Path) -> None:
    """Keeps the phase of this process in a file, such as "training, saving"."""
    descriptor = os.open(note, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    state = {"now": "start-up", "saving": False}

    def write():
        text = state["now"] + (", saving" if state["saving"] else "")
        os.pwrite(descriptor, text.encode().ljust(_NOTE_BYTES), 0)

    def set_to(**changes):
        state.update(changes)
        write()

    @contextlib.contextmanager
    def phase(name):
        before = state["now"]
        set_to(now=name)
        try:
            yield
        finally:
            set_to(now=before)

    def follow(owner, name, called):
        original = getattr(owner, name)

        def replacement(*args, **kwargs):
            with phase(called):
                return original(*args, **kwargs)

        setattr(owner, name, replacement)

    write()
    follow(datasets, "load", "data and their cache")
    follow(start, "first_state", "first weights")
    follow(checkpoint.Checkpoints, "_find", "restoring")
    follow(checkpoint.Checkpoints, "restore", "restoring")
    follow(evaluate, "evaluate", "evaluation")
    follow(report, "write_history", "metrics.jsonl")
    follow(reports, "write_json", "report.json")
    follow(TensorBoard, "add", "tensorboard")
    follow(weights, "save", "best.safetensors")
    for name in ("plot_history", "plot_confusion", "plot_batch"):
        follow(plots, name, "plots")

    compile_programs = Loop.compile_programs

    def compiling(self):
        with phase("compile"):
            compile_programs(self)
        set_to(now="training")

    Loop.compile_programs = compiling
    save, seal = checkpoint.Checkpoints.save, checkpoint.Checkpoints._seal

    def saving(self, *args):
        set_to(saving=True)
        save(self, *args)

    def sealing(self, step):
        seal(self, step)
        set_to(saving=False)

    checkpoint.Checkpoints.save, checkpoint.Checkpoints._seal = saving, sealing
