"""What a run tells its user: progress, metrics.jsonl, JSON and text files, TensorBoard events.

No JAX here. An entry of a history is what one epoch gave, a dict with the keys `epoch` (from 1),
`step` (since the start of the run), `learning_rate`, `train_loss`, `train_accuracy`, with a
validation split `val_loss` and `val_accuracy`, `test_loss`, `test_accuracy`, `seconds`,
`images_per_second`; accuracies are fractions. Epochs after which nothing was evaluated have none; their
seconds are those of the next that has.
"""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from cifar_jax.errors import UserError
from cifar_jax.system import files

# Prefix of the keys of a history entry -> what people read.
SPLITS = {"train": "train", "val": "validation", "test": "test"}


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` as UTF-8, whole or not at all."""
    files.write_bytes(path, text.encode())


def write_json(path: str | os.PathLike, obj) -> None:
    """Writes `obj` as indented JSON, whole or not at all; NumPy values and tuples are fine.

    Numbers that are not finite become null: JSON has no NaN, and other readers refuse it.
    """
    write_text(path, json.dumps(_plain(obj), indent=2, ensure_ascii=False) + "\n")


def write_metrics(path: str | os.PathLike, history: Sequence[dict]) -> None:
    """Writes metrics.jsonl: one JSON object a line, one line an epoch.

    The whole file each time: after a resume it holds what the restored history holds, so that no
    epoch is there twice and none of a lost future stays.
    """
    lines = [json.dumps(_plain(entry), ensure_ascii=False) + "\n" for entry in history]
    write_text(path, "".join(lines))


def read_metrics(path: str | os.PathLike) -> list[dict]:
    """The history in metrics.jsonl, [] where there is none yet; UserError where it is damaged."""
    try:
        with open(path, encoding="utf-8") as file:
            history = [json.loads(line) for line in file]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {files.shown(path)}: {files.reason(error)}") from None
    last = 0
    for number, entry in enumerate(history, start=1):
        if not _is_entry(entry) or not last < entry["epoch"]:
            raise UserError(f"{files.shown(path)}: line {number} is not an epoch of a run")
        last = entry["epoch"]
    return history


def _is_entry(entry) -> bool:
    if not isinstance(entry, dict):
        return False
    numbers = {"epoch", "step", "train_loss", "test_loss", "test_accuracy", "seconds"}
    numbers |= {"images_per_second"} | {"val_accuracy"} & entry.keys()
    return all(isinstance(entry.get(name), int | float) for name in numbers)


def read_report(path: str | os.PathLike) -> dict:
    """report.json, {} where there is none yet; UserError where it is damaged."""
    if os.path.exists(path):
        files.check_regular_file(path)
    try:
        with open(path, encoding="utf-8") as file:
            report = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {files.reason(error)}; move it away") from None
    names = ("dataset", "final", "test", "eval")
    if not isinstance(report, dict) or any(not isinstance(report.get(n, {}), dict) for n in names):
        raise UserError(f"{path} is not a report: move it away")
    return report


def _plain(obj):
    if isinstance(obj, dict):
        return {str(key): _plain(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_plain(value) for value in obj]
    if isinstance(obj, np.ndarray | np.generic):
        return _plain(obj.tolist())
    if isinstance(obj, float) and not math.isfinite(obj):
        return None
    return obj


class Progress:
    """A bar for one epoch on a terminal; nothing at all where standard error is no terminal.

    The bar goes away at its end, where the caller prints `epoch_line`, in both cases.
    """

    def __init__(self, epoch: int, num_epochs: int, steps_per_epoch: int, initial_step: int = 0):
        self._bar = tqdm(
            desc=f"epoch {epoch:{len(str(num_epochs))}}/{num_epochs}",
            total=steps_per_epoch,
            initial=initial_step,
            disable=not sys.stderr.isatty(),
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}"
            " [{elapsed}<{remaining}{postfix}]",
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception) -> None:
        self._bar.close()

    def update(
        self, step_in_epoch: int, loss: float, accuracy: float, images_per_second: float
    ) -> None:
        """Moves the bar to `step_in_epoch` steps done; `accuracy` is a fraction."""
        if self._bar.disable:
            return
        self._bar.n = step_in_epoch
        self._bar.set_postfix_str(
            f"loss {loss:.3f}, {_percent(accuracy).strip()}, {images_per_second:,.0f} img/s"
        )


def epoch_line(entry: dict, num_epochs: int) -> str:
    """One epoch in one line, its columns in line with those of the other epochs."""
    scores = [f"{split} {_score(entry, key)}" for key, split in _splits(entry)]
    return "  ".join(
        [
            f"epoch {entry['epoch']:{len(str(num_epochs))}}/{num_epochs}",
            f"lr {entry['learning_rate']:<8.4g}",
            *scores,
            f"{entry['images_per_second']:>7,.0f} img/s",
            duration(entry["seconds"]),
        ]
    )


def summary(history: Sequence[dict], best: dict | None, paths: Sequence[str]) -> str:
    """The end of a run: every split's loss and accuracy at the best and the last epoch; the files.

    `best` holds `epoch` and `chosen_on` ("test" or "validation"); None where nothing was chosen.
    """
    lines = []
    rows = [("last epoch", history[-1])] if history else []
    if best:
        name = f"best on {best['chosen_on']}"
        found = [entry for entry in history if entry["epoch"] == best["epoch"]]
        # One row where the last is the best.
        rows = [(name, entry) for entry in found] + (rows if found != history[-1:] else [])
    if rows:
        first = max(len(name) for name, _ in rows)
        splits = list(_splits(rows[0][1]))
        lines.append(" " * first + "  epoch" + "".join(f"  {split:>14}" for _, split in splits))
        for name, entry in rows:
            scores = "".join(f"  {_score(entry, key):>14}" for key, _ in splits)
            lines.append(f"{name:{first}}  {entry['epoch']:5}{scores}")
        seconds = sum(entry["seconds"] for entry in history)
        count = history[-1]["epoch"] if history else 0
        lines.append(f"{count} epochs in {duration(seconds)}" if count > 1 else "")
    if paths:
        lines += ["written:", *(f"  {files.shown(path)}" for path in paths)]
    return "\n".join(line for line in lines if line)


def duration(seconds: float) -> str:
    """Seconds as people say them: "0.4 s", "40 s", "12 min 5 s", "3 h 20 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _splits(entry: dict) -> list[tuple[str, str]]:
    return [(key, split) for key, split in SPLITS.items() if f"{key}_loss" in entry]


def _score(entry: dict, key: str) -> str:
    return f"{entry[f'{key}_loss']:.3f} {_percent(entry[f'{key}_accuracy'])}"


def _percent(fraction: float) -> str:
    # 99.96 % must not read as 100 %: cut, not rounded, once it is that near.
    percent = 100 * fraction
    return f"{min(percent, 99.9) if percent < 100 else percent:5.1f} %"


class TensorBoard:
    """Writes each epoch's numbers as TensorBoard scalars at the epoch's last step.

    Where the folder has events already, the run is a resumed one: what they hold from the last step
    of `history` on is purged for TensorBoard's readers (they hide, from a session's start on,
    whatever has that step or a later one), and that last entry is written again, since a kill
    may have come between its checkpoint and its event. Nothing then shows twice, and nothing lacks.
    """

    def __init__(self, logdir: str | os.PathLike, history: Sequence[dict] = ()):
        self._logdir = logdir
        self._history = list(history)
        self._writer = None

    def open(self) -> None:
        """Opens a file of events, if that is still to be done; the import may take a second.

        To be called before the run saves: what a kill left out is then made good by the next start.

        Raises:
          UserError: it cannot be written (as `add` and `close` do).
        """
        if self._writer is not None:
            return
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        with self._told():
            os.makedirs(self._logdir, exist_ok=True)
            earlier = sum("tfevents" in name for name in os.listdir(self._logdir))
            # The writer under SummaryWriter, not that class: its queue may hold epochs back for
            # minutes and its flush does not wait for them, so a kill would lose more than the last
            # entry. Its files are read in the order of their names, which begin with the time: the
            # number before that keeps the order where a clock is set back.
            path = os.path.join(self._logdir, f"events.start{earlier:04}")
            self._writer = EventsWriter(path)
            if earlier:
                purge_step = self._history[-1]["step"] if self._history else 0
                self._write(Event(step=purge_step, file_version="brain.Event:2"))
                self._write(
                    Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)),
                )
            for entry in self._history[-1:] if earlier else self._history:
                self.add(entry)
            self._writer.flush()

    def add(self, entry: dict) -> None:
        """Writes one entry of the history; it is on the disk when this returns."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        self.open()
        scalars = {
            f"{quantity}/{split}": entry[f"{key}_{quantity}"]
            for quantity in ("loss", "accuracy")
            for key, split in _splits(entry)
        }
        for name in ("epoch", "learning_rate", "images_per_second", "seconds"):
            scalars[name] = entry[name]
        with self._told():
            for tag, value in scalars.items():
                self._write(Event(step=entry["step"], summary=scalar(tag, value)))
            self._writer.flush()

    def close(self) -> None:
        self.open()
        with self._told():
            self._writer.close()

    @contextlib.contextmanager
    def _told(self):
        with files.refused(f"cannot write {files.shown(self._logdir)}"):
            try:
                yield
            except OSError:
                # What is left in its buffer must not be tried, and complained of, at Python's end.
                with contextlib.suppress(OSError, AttributeError):
                    self._writer.close()
                raise

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _write(self, event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)
