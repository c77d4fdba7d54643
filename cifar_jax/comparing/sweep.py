"""A sweep: several recipes and seeds one after another, each an ordinary run in its own process.

Separate processes keep memory and crashes apart. The folders of the runs tell what is left to do, so a sweep
that was stopped at any moment resumes when it is started again.
"""

import dataclasses
import glob
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

from ml_collections import ConfigDict

from cifar_jax.errors import UserError
from cifar_jax.reporting import reports
from cifar_jax.storage import workdir as files_of
from cifar_jax.system import files, interruption
from configs import default

# Files in a folder of recipes that are not recipes.
_NO_RECIPES = ("__init__.py", "default.py", "rerun.py")
_PR_SET_PDEATHSIG = 1
_TAIL_BYTES = 8192


@dataclasses.dataclass(frozen=True)
class Planned:
    """A run of a sweep: its folder, its config and its flags."""

    workdir: str
    flags: tuple[str, ...]
    config: ConfigDict

    def is_finished(self) -> bool:
        """Whether its folder has the report of the last epoch."""
        try:
            report = reports.read_report(os.path.join(self.workdir, files_of.REPORT))
        except UserError:  # training will write it again
            return False
        return report.get("final", {}).get("epoch", 0) >= self.config.num_epochs

    def on_other_data(self) -> str:
        """Words for a finished run whose pictures are from another folder; "" if they are from this one."""
        try:
            before = files_of.read_config(self.workdir, default.get_config()).dataset.path
        except UserError:  # the report alone is left
            return ""
        if before == self.config.dataset.path:
            return ""
        return f", with dataset.path={before}: to train on other pictures, give another --workdir"


def find_recipes(paths: Sequence[str]) -> list[str]:
    """The recipes that paths, folders and patterns name, each once, as --config takes them."""
    found = {}
    for path in paths:
        matches = [path]
        if os.path.isdir(path):
            matches = sorted(glob.glob(os.path.join(glob.escape(path), "*.py")))
            matches = [match for match in matches if os.path.basename(match) not in _NO_RECIPES]
            if not matches:
                raise UserError(f"--recipes: there is no recipe in the folder {path}")
        elif not os.path.exists(path):
            matches = sorted(glob.glob(path)) or [path]
        found |= {os.path.realpath(match): match for match in matches}
    return list(found.values())


def plan(
    recipes: Sequence[str],
    seeds: Sequence[int],
    fields: Sequence[str],
    folder: str,
    load: Callable[[str, Sequence[str]], ConfigDict],
) -> list[Planned]:
    """The runs of a sweep, in order, each in a folder like FOLDER/lenet-seed0.

    Args:
      recipes: as --config takes them.
      seeds: the seeds of every recipe; empty: each recipe's own seed.
      fields: flags that change fields of every recipe, such as "--config.num_epochs=2".
      load: (recipe, flags) -> its valid config, or UserError.

    Raises:
      UserError: a recipe is not valid, or a folder holds a run of another recipe. Nothing has started.
    """
    planned = []
    for recipe, name in zip(recipes, _names(recipes), strict=True):
        for seed in seeds or [None]:
            changes = (*fields, *([] if seed is None else [f"--config.seed={seed}"]))
            config = load(recipe, changes)
            workdir = os.path.join(folder, f"{name}-seed{config.seed}")
            files_of.check_recipe(workdir, config, default.get_config())
            flags = (f"--config={recipe}", *changes, f"--workdir={workdir}")
            planned.append(Planned(workdir, flags, config))
    return planned


def _names(recipes: Sequence[str]) -> list[str]:
    """A name for each recipe: that of its file, preceded by as many of its folders as make it unique."""
    # For configs/rerun.py:RUN, the run is the better name.
    paths = [os.path.abspath(recipe.partition(":")[2] or recipe) for recipe in recipes]
    parts = [path.removesuffix(".py").strip(os.sep).split(os.sep) for path in paths]
    lengths = [1] * len(parts)
    while True:
        names = ["-".join(part[-n:]) for part, n in zip(parts, lengths, strict=True)]
        equal = [i for i, name in enumerate(names) if names.count(name) > 1]
        longer = [i for i in equal if lengths[i] < len(parts[i])]
        if not equal:
            return names
        if not longer:
            same = " and ".join(recipes[i] for i in equal if names[i] == names[equal[0]])
            raise UserError(f"--recipes: {same} would get the same folder: rename one of them")
        for i in longer:
            lengths[i] += 1


def run(planned: Sequence[Planned], command: Sequence[str]) -> tuple[dict[str, str], int]:
    """Trains the runs that are not finished.

    Args:
      planned: the runs, in order.
      command: starts `main.py`; the flags of a run are appended.

    Returns:
      ({folder of a failed run: why}, the signal that stopped the sweep or 0).
    """
    failed, signals = {}, _Signals()
    with interruption.passed_to(signals.note):
        for number, each in enumerate(planned, start=1):
            place = f"[{number}/{len(planned)}] {files.shown(each.workdir)}"
            if each.is_finished():
                print(f"{place}: finished already{each.on_other_data()}", flush=True)
                continue
            print(place, flush=True)
            status, said = _run_process([*command, *each.flags], signals)
            if signals.received:
                break
            if status:
                failed[each.workdir] = _why(status, said)
    return failed, signals.received


class _Signals:
    """Passes SIGINT and SIGTERM on to the current run, which saves and exits (a second time: at once)."""

    def __init__(self):
        self.received = 0
        self._process = None

    def note(self, number: int) -> None:
        self.received = number
        if self._process:
            self._process.send_signal(number)

    def follow(self, process: subprocess.Popen) -> None:
        """Makes this the current run."""
        self._process = process
        if self.received:  # while the process started
            process.send_signal(self.received)

    def unfollow(self) -> None:
        self._process = None


def _run_process(command: Sequence[str], signals: _Signals) -> tuple[int, str]:
    """Runs a command to its end. Returns (its exit status, the end of its standard error).

    Standard error is passed on at once, through a terminal if ours is one, so progress bars work. The
    process has its own session, because a Ctrl-C would otherwise reach it twice. If this process is
    killed, it gets SIGTERM, to save and exit.
    """
    is_terminal = sys.stderr.isatty() and hasattr(os, "openpty")
    reader, writer = os.openpty() if is_terminal else os.pipe()
    if is_terminal:
        _copy_size(sys.stderr.fileno(), writer)
    try:
        process = subprocess.Popen(
            [*_end_with_parent(), *command],
            stdin=subprocess.DEVNULL,
            stderr=writer,
            start_new_session=True,
        )
    finally:
        os.close(writer)
    signals.follow(process)
    tail = b""
    while chunk := _read(reader):
        sys.stderr.buffer.write(chunk)
        sys.stderr.flush()
        tail = (tail + chunk)[-_TAIL_BYTES:]
    os.close(reader)
    status = process.wait()
    signals.unfollow()
    return status, tail.decode(errors="replace")


def _end_with_parent() -> list[str]:
    """A prefix that starts a command such that it gets SIGTERM when this process ends, however it ends.

    It is a program of its own, because Python code between a fork and an exec is not safe.
    """
    if sys.platform != "linux":
        return []
    code = (
        f"import ctypes, os, sys; ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {int(signal.SIGTERM)})"
        "; os.execv(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-I", "-S", "-c", code]


def _copy_size(terminal: int, other: int) -> None:
    # These modules do not exist everywhere, and training does not need them.
    import fcntl
    import termios

    size = fcntl.ioctl(terminal, termios.TIOCGWINSZ, bytes(8))
    fcntl.ioctl(other, termios.TIOCSWINSZ, size)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other side of the terminal is closed
        return b""


def _why(status: int, said: str) -> str:
    """The reason why a run failed, as one line."""
    number = -status if status < 0 else status - 128
    if number in {each.value for each in signal.Signals}:
        name = signal.Signals(number).name
        memory = " (is there enough memory?)" if name == "SIGKILL" else ""
        return f"ended by {name}{memory}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"exit status {status}"])[-1]
