"""Colours and axes of a comparison, and its plots as PNG files."""

import math
import os
from collections.abc import Sequence

import numpy as np

from cifar_jax.comparing.comparison import Comparison, Recipe
from cifar_jax.comparing.table import recipe_title
from cifar_jax.reporting import plots, reports

# Okabe and Ito's palette without yellow and black, then more colours that differ from these. All are
# readable on a light and on a dark background.
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9",
    "#8C6BD1", "#A1712B", "#7A9A01", "#8A8F98", "#C2334D", "#1FA3A3",
)  # fmt: skip
# Shades of the first, second, ... run of a recipe: towards white (above 0) or black (below 0).
_SHADES = (0.0, 0.38, -0.3, 0.55, -0.45)
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
# Readable times, from 0.1 s to 30 d.
_LOG_TICKS = (
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
    *(60 * minutes for minutes in (1, 2, 5, 10, 30)),
    *(3600 * hours for hours in (1, 2, 5, 10, 24)),
    *(86400 * days for days in (2, 5, 10, 30)),
)


def run_colours(recipes: Sequence[Recipe]) -> dict[str, str]:
    """A colour for the name of each run: one colour per recipe, in shades for its seeds."""
    return {
        run.name: _shaded(
            COLOURS[i % len(COLOURS)], _SHADES[(j + i // len(COLOURS)) % len(_SHADES)]
        )
        for i, recipe in enumerate(recipes)
        for j, run in enumerate(recipe.runs)
    }


def _shaded(colour: str, amount: float) -> str:
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    end = 255 if amount > 0 else 0
    return "#" + "".join(f"{round(p + abs(amount) * (end - p)):02X}" for p in parts)


def ticks(low: float, high: float) -> list[float]:
    """About six round numbers that cover the range from `low` to `high`."""
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    # The locator multiplies, which gives 0.6000000000000001.
    return [float(f"{tick:.10g}") for tick in found]


def time_axis(times: Sequence[Sequence[float]]) -> tuple[str, bool, list[tuple[float, str]]]:
    """The time axis of several runs, whose times are in seconds.

    Returns:
      (unit, whether the axis is logarithmic, (seconds, text) of each tick). It is logarithmic, and each
      tick has its own unit, if one run takes ten times as long as another: on a linear axis, the
      shorter run would be invisible.
    """
    longest = max(run[-1] for run in times)
    if longest >= 10 * min(run[-1] for run in times):
        start = min(run[0] for run in times)
        return "", True, [(t, _time_text(t)) for t in _log_ticks(start, longest)]
    unit = next((u for u in ("d", "h", "min") if longest >= 2 * _SECONDS[u]), "s")
    size = _SECONDS[unit]
    return (
        unit,
        False,
        [(t * size, f"{t:g}") for t in ticks(0, longest / size) if 0 <= t * size <= longest],
    )


def _log_ticks(start: float, end: float) -> list[float]:
    """The ticks within the range, without those whose texts would touch."""
    found = []
    for tick in _LOG_TICKS:
        if start <= tick <= end and (
            not found or math.log(tick / found[-1]) > 0.13 * math.log(end / start)
        ):
            found.append(tick)
    return found


def _time_text(seconds: float) -> str:
    unit = next((u for u in ("d", "h", "min") if seconds >= _SECONDS[u]), "s")
    return f"{seconds / _SECONDS[unit]:g} {unit}"


def plot_curves(path: str | os.PathLike, comparison: Comparison, colours: dict[str, str]) -> None:
    """Writes a PNG of the test score and the training loss over epochs and over time, on common scales.

    `colours` has a colour for the name of each run with an epoch; there must be at least one.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, NullLocator

    runs = [run for run in comparison.runs if run.history]
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    unit, log, time_ticks = time_axis([run.times for run in runs])
    few = max(len(run.history) for run in runs) <= 20
    style = {"marker": "o", "markersize": 3} if few else {}
    rows = (
        (lambda entry: 100 * reports.test_score(entry), f"test {comparison.score_name}"),
        (lambda entry: entry["train_loss"], "training loss"),
    )
    for row, (value, title) in zip(axes, rows, strict=True):
        for run in runs:
            values = [value(entry) for entry in run.history]
            epochs = [entry["epoch"] for entry in run.history]
            for panel, places in zip(row, (epochs, run.times), strict=True):
                panel.plot(places, values, color=colours[run.name], linewidth=1.4, **style)
        row[0].set_ylabel(title)
    axes[0, 0].yaxis.set_major_formatter("{x:g} %")
    axes[1, 0].set_ylim(bottom=0)
    axes[1, 0].set_xlabel("epoch")
    axes[1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[1, 1].set_xlabel(f"time{', logarithmic' if log else ''}{f' ({unit})' if unit else ''}")
    if log:
        axes[1, 1].set_xscale("log")
    axes[1, 1].set_xticks([t for t, _ in time_ticks], [text for _, text in time_ticks])
    axes[1, 1].xaxis.set_minor_locator(NullLocator())
    for panel in axes.flat:
        panel.grid(color="#dddddd", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    _legend(figure, [r for r in comparison.recipes if r.counted], colours)
    plots.save(path, figure)


def plot_classes(
    path: str | os.PathLike,
    class_names: Sequence[str],
    recipes: Sequence[Recipe],
    colours: dict[str, str],
) -> None:
    """Writes a PNG of the test score per class, with a row of points for each class."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.6 + 0.28 * len(class_names)), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(class_names))
    for i, recipe in enumerate(recipes):
        accuracies = [recipe.score_per_class.get(name) for name in class_names]
        values = [np.nan if value is None else 100 * value for value in accuracies]
        # Offset, so that equal points do not hide each other.
        offset = 0.5 * (i - (len(recipes) - 1) / 2) / max(len(recipes), 2)
        axes.plot(values, rows + offset, "o", color=colours[recipe.runs[0].name], markersize=4.5)
    axes.set_yticks(rows, class_names, parse_math=False)
    axes.set_ylim(len(class_names) - 0.4, -0.6)
    score = "IoU" if recipes[0].runs[0].is_segmentation else "accuracy"
    axes.set_xlabel(f"test {score} of the class")
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    _legend(figure, recipes, colours)
    plots.save(path, figure)


def _legend(figure, recipes: Sequence[Recipe], colours: dict[str, str]) -> None:
    """Adds a legend entry for each recipe below the figure."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colours[recipe.runs[0].name], lw=2.5) for recipe in recipes]
    titles = [recipe_title(recipe) for recipe in recipes]
    columns = max(1, min(4, 110 // max(map(len, titles))))
    legend = figure.legend(
        handles, titles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
