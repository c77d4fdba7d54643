"""The learning curves of the comparison page, as coordinates."""

import dataclasses
import math
from collections.abc import Callable, Sequence

from cifar_jax.comparing import Comparison, RunResult, curves, table
from cifar_jax.pages.comparison_tables import Mark
from cifar_jax.reporting import reports

# More circles than this would be too close to tell apart. Then only the last point gets one.
_MOST_POINTS = 25


@dataclasses.dataclass(frozen=True)
class Frame:
    """The size of a chart, and where the curves are in it. One unit is about a pixel."""

    width: int = 560
    height: int = 340
    left: int = 60
    right: int = 546
    top: int = 12
    bottom: int = 282


FRAME = Frame()


class Scale:
    """Maps values from [low, high] to [0, 1], and to coordinates in `FRAME`."""

    def __init__(self, low: float, high: float, log: bool = False):
        self._of = math.log if log else float
        self.low, self.high = low, high
        self._start = self._of(low)
        self._length = (self._of(high) - self._start) or 1.0

    def __call__(self, value: float) -> float:
        return (self._of(value) - self._start) / self._length

    def x(self, value: float) -> float:
        return round(FRAME.left + self(value) * (FRAME.right - FRAME.left), 2)

    def y(self, value: float) -> float:
        return round(FRAME.bottom - self(value) * (FRAME.bottom - FRAME.top), 2)


@dataclasses.dataclass(frozen=True)
class Axis:
    """`ticks` are (value, text). A horizontal axis also has a title and each run's values on it."""

    scale: Scale
    ticks: list[tuple[float, str]]
    title: str = ""
    values: Callable[[RunResult], list[float]] | None = None


@dataclasses.dataclass(frozen=True)
class Tick:
    place: float
    text: str


@dataclasses.dataclass(frozen=True)
class Point:
    x: float
    y: float
    text: str


@dataclasses.dataclass(frozen=True)
class Curve:
    """The curve of a run. `path` is all its points as "x,y x,y"; `points` are those drawn as circles."""

    run: str
    name: str
    colour: str
    path: str
    points: list[Point]


@dataclasses.dataclass(frozen=True)
class Chart:
    """`target` is the height of the line at the target; None draws no line."""

    caption: str
    x_title: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    target: float | None
    curves: list[Curve]


def charts(comparison: Comparison, marks: dict[str, Mark]) -> list[Chart]:
    """Test score and training loss, over epochs and over time; empty if no run has finished an epoch."""
    runs = [run for run in comparison.runs if run.history]
    if not runs:
        return []
    quantities = (
        (f"Test {comparison.score_name}", reports.test_score, lambda value: f"{100 * value:g} %"),
        ("Training loss", _train_loss, lambda value: f"{value:g}"),
    )
    x_axes = {"epochs": _epoch_axis(runs), "time": _time_axis(runs)}
    found = []
    for title, of, write in quantities:
        y_axis = _value_axis(runs, of, write)
        target = None if of is _train_loss else comparison.target
        for over, x_axis in x_axes.items():
            found.append(_chart(f"{title} over {over}", runs, of, x_axis, y_axis, target, marks))
    return found


def _epoch_axis(runs: Sequence[RunResult]) -> Axis:
    most = max(run.epochs for run in runs)
    return Axis(
        Scale(0, most),
        [(tick, f"{tick:g}") for tick in curves.ticks(0, most) if tick == int(tick)],
        "epoch",
        lambda run: [entry["epoch"] for entry in run.history],
    )


def _time_axis(runs: Sequence[RunResult]) -> Axis:
    unit, log, ticks = curves.time_axis([run.times for run in runs])
    start = min(run.times[0] for run in runs) if log else 0
    return Axis(
        Scale(start, max(run.times[-1] for run in runs), log),
        ticks,
        f"time{', logarithmic' if log else ''}{f' ({unit})' if unit else ''}",
        lambda run: run.times,
    )


def _train_loss(entry: dict) -> float:
    return entry["train_loss"]


def _value_axis(
    runs: Sequence[RunResult], of: Callable[[dict], float], write: Callable[[float], str]
) -> Axis:
    values = [of(entry) for run in runs for entry in run.history]
    low, high = (0 if of is _train_loss else min(values)), max(values)
    levels = curves.ticks(low, high if high > low else low + 0.01)
    return Axis(Scale(levels[0], levels[-1]), [(level, write(level)) for level in levels])


def _chart(
    caption: str,
    runs: Sequence[RunResult],
    of: Callable[[dict], float],
    x_axis: Axis,
    y_axis: Axis,
    target: float | None,
    marks: dict[str, Mark],
) -> Chart:
    x, y = x_axis.scale.x, y_axis.scale.y
    visible = target is not None and y_axis.scale.low < target < y_axis.scale.high
    found = []
    for run in runs:
        places = zip(x_axis.values(run), run.history, run.times, strict=True)
        points = [
            Point(x(value), y(of(entry)), _point_text(run, entry, time))
            for value, entry, time in places
        ]
        found.append(_curve(run, points, marks[run.name]))
    return Chart(
        caption,
        x_axis.title,
        [Tick(x(value), text) for value, text in x_axis.ticks],
        [Tick(y(value), text) for value, text in y_axis.ticks],
        y(target) if visible else None,
        found,
    )


def _curve(run: RunResult, points: list[Point], mark: Mark) -> Curve:
    path = " ".join(f"{point.x:g},{point.y:g}" for point in points)
    shown = points if len(points) <= _MOST_POINTS else points[-1:]
    return Curve(mark.key, run.name, mark.colour, path, shown)


def _point_text(run: RunResult, entry: dict, time: float) -> str:
    _, score = reports.score_of(entry)
    return (
        f"{run.name}, epoch {entry['epoch']}, {reports.duration(time)}: "
        f"test {score} {table.percent(reports.test_score(entry))}, "
        f"training loss {entry['train_loss']:.4g}"
    )
