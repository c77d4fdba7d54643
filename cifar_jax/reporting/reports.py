"""Metrics and reports of a run: as files, and as lines for people. Nothing here imports JAX.

A history is a list with one entry per evaluated epoch. An entry is a dict with the keys `epoch` (from 1),
`step` (since the start of the run), `learning_rate`, `train_loss`, `train_accuracy`, `val_loss` and
`val_accuracy` (with a validation split), `test_loss`, `test_accuracy`, `seconds` (since the previous
entry) and `images_per_second`. Accuracies are fractions. Segmentation has `val_mean_iou` and `test_mean_iou`
too, and its accuracies are those of pixels.
"""

import json
import math
import os
from collections.abc import Sequence

import numpy as np

from cifar_jax.errors import UserError
from cifar_jax.system import files

# Prefix of the keys of an entry -> the name people read.
SPLITS = {"train": "train", "val": "validation", "test": "test"}


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` as UTF-8, atomically."""
    files.write_bytes(path, text.encode())


def write_json(path: str | os.PathLike, obj) -> None:
    """Writes `obj` as indented JSON, atomically, as `plain` makes it."""
    write_text(path, json.dumps(plain(obj), indent=2, ensure_ascii=False) + "\n")


def read_metrics(path: str | os.PathLike) -> list[dict]:
    """The history in metrics.jsonl; [] if there is no such file. UserError if it is damaged.

    A last line without an end is just being written, and left out.
    """
    try:
        with open(path, encoding="utf-8") as file:
            history = [json.loads(line) for line in file if line.endswith("\n")]
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
    numbers |= {"images_per_second"} | {
        "val_accuracy",
        "val_mean_iou",
        "test_mean_iou",
    } & entry.keys()
    return all(isinstance(entry.get(name), int | float) for name in numbers)


def read_report(path: str | os.PathLike) -> dict:
    """The content of report.json; {} if there is no such file. UserError if it is damaged."""
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


def test_images(report: dict) -> str | None:
    """The digest of the test images and labels in a report; None if it has none (an older version's)."""
    try:
        return report["dataset"]["fingerprint"]["test"]
    except (KeyError, TypeError):
        return None


def plain(obj):
    """`obj` as JSON can hold it: NumPy values as numbers, tuples as lists, NaN and infinity as None.

    Python would write NaN and infinity, which other readers of JSON refuse.
    """
    if isinstance(obj, dict):
        return {str(key): plain(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [plain(value) for value in obj]
    if isinstance(obj, np.ndarray | np.generic):
        return plain(obj.tolist())
    if isinstance(obj, float) and not math.isfinite(obj):
        return None
    return obj


def epoch_line(entry: dict, num_epochs: int) -> str:
    """One entry as a line, whose columns align with those of the other epochs."""
    scores = [f"{split} {_score(entry, key)}" for key, split in splits(entry)]
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
    """The summary of a run: loss and accuracy of each split at the best and the last epoch, and the files.

    `best` holds `epoch` and `chosen_on` ("test" or "validation"); None if no epoch was chosen.
    """
    lines = []
    width = 25 if history and "test_mean_iou" in history[-1] else 14
    rows = [("last epoch", history[-1])] if history else []
    if best:
        name = f"best on {best['chosen_on']}"
        found = [entry for entry in history if entry["epoch"] == best["epoch"]]
        # A single row if the last epoch is the best.
        rows = [(name, entry) for entry in found] + (rows if found != history[-1:] else [])
    if rows:
        first = max(len(name) for name, _ in rows)
        found_splits = list(splits(rows[0][1]))
        lines.append(
            " " * first + "  epoch" + "".join(f"  {split:>{width}}" for _, split in found_splits)
        )
        for name, entry in rows:
            scores = "".join(f"  {_score(entry, key):>{width}}" for key, _ in found_splits)
            lines.append(f"{name:{first}}  {entry['epoch']:5}{scores}")
        seconds = sum(entry["seconds"] for entry in history)
        count = history[-1]["epoch"] if history else 0
        lines.append(f"{count} epochs in {duration(seconds)}" if count > 1 else "")
    if paths:
        lines += ["written:", *(f"  {files.shown(path)}" for path in paths)]
    return "\n".join(line for line in lines if line)


def duration(seconds: float) -> str:
    """Seconds in readable units: "0.4 s", "40 s", "12 min 5 s", "3 h 20 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def splits(entry: dict) -> list[tuple[str, str]]:
    """(prefix of the keys, name) of each split that an entry has."""
    return [(key, split) for key, split in SPLITS.items() if f"{key}_loss" in entry]


def score_of(entry: dict) -> tuple[str, str]:
    """(key, name) of the figure that ranks epochs and runs: accuracy or, in segmentation, mean IoU."""
    return ("mean_iou", "mean IoU") if "test_mean_iou" in entry else ("accuracy", "accuracy")


def test_score(entry: dict) -> float:
    """The figure of `score_of` on the test images, a fraction."""
    return entry[f"test_{score_of(entry)[0]}"]


def _score(entry: dict, key: str) -> str:
    words = f"{entry[f'{key}_loss']:.3f} {percent(entry[f'{key}_accuracy'])}"
    iou = entry.get(f"{key}_mean_iou")
    return words if iou is None else f"{words} IoU{percent(iou)}"


def percent(fraction: float) -> str:
    """A fraction as "  5.0 %", six characters wide; only 1 itself is "100.0 %"."""
    percent = 100 * fraction
    return f"{min(percent, 99.9) if percent < 100 else percent:5.1f} %"
