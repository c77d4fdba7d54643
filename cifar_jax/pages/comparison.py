"""A comparison as one HTML file that needs nothing else: no server, no network, no other file.

Everything that comes from a run (names, fields, classes) is escaped. Beside it the same for reports:
compare.md and PNG files.
"""

import math
import os
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from cifar_jax import pages
from cifar_jax.comparing import FOLDER, Comparison, Recipe, RunResult, curves, differences, table
from cifar_jax.errors import UserError
from cifar_jax.reporting import reports
from cifar_jax.system import files

_TEMPLATE = Path(__file__).with_suffix(".html")
# Of a chart and of the margins in it, in units of which a column of the page is about 560 wide.
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 560, 340, 60, 14, 12, 58
# More points than that are too near to each other to be told apart.
_MOST_POINTS = 25


def write(comparison: Comparison) -> list[str]:
    """Writes the page and what lies beside it into `compare` in the runs' common parent folder.

    Returns:
      The files, the page first.
    """
    folder = os.path.normpath(os.path.join(comparison.folder, FOLDER))
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {files.reason(error)}") from None
    colours = curves.run_colours(comparison.recipes)
    pictures = []
    if any(run.history for run in comparison.runs):
        pictures.append("curves.png")
        curves.plot_curves(os.path.join(folder, pictures[-1]), comparison, colours)
    for i, (_, names, recipes) in enumerate(table.classes(comparison), start=1):
        pictures.append(f"classes{'' if i == 1 else i}.png")
        curves.plot_classes(os.path.join(folder, pictures[-1]), names, recipes, colours)
    texts = {
        "index.html": to_html(comparison, colours),
        "compare.md": table.to_markdown(comparison, pictures),
    }
    for name, text in texts.items():
        reports.write_text(os.path.join(folder, name), text)
    return [os.path.join(folder, name) for name in (*texts, *pictures)]


def to_html(comparison: Comparison, styles: dict[str, str]) -> str:
    """The page; `styles` holds a colour, as "#0072B2", for the name of each run."""
    keys = {run.name: f"run{i}" for i, run in enumerate(comparison.runs)}
    return pages.fill(
        _TEMPLATE,
        title=escape(table.headline(comparison)),
        subtitle=escape(comparison.folder),
        skipped="".join(
            f'<p class="skipped">Not shown: {escape(line)}</p>' for line in comparison.skipped
        ),
        table=_runs_table(comparison, keys, styles),
        explanations="".join(
            f'<p class="faint">{_prose(line)}</p>' for line in table.explanations(comparison)
        ),
        legend=_legend(comparison.recipes, keys, styles),
        charts=_charts(comparison, keys, styles),
        curves_note=_curves_note(comparison),
        classes="".join(_classes_table(*part) for part in table.classes(comparison)),
        differences=_differences_table(comparison.recipes),
    )


def _prose(text: str) -> str:
    """A sentence, with flags that are not broken behind their two hyphens."""
    return re.sub(r"--\w+", r"<code>\g<0></code>", escape(text))


def _runs_table(comparison: Comparison, keys: dict, styles: dict) -> str:
    columns = table.columns(comparison)
    heads = [pages.sort_head("run", words=True)]
    for column in columns:
        # What is wanted comes first at the first click: high accuracies, short times.
        high = "accuracy" in column.title or column.title == "images/s"
        heads.append(
            pages.sort_head(
                column.title,
                words=column.of is None,
                first="descending" if high else "ascending",
                is_sorted=column.title == "final accuracy",
            )
        )
    bodies = []
    for recipe in comparison.recipes:
        cells = table.recipe_cells(columns, recipe)
        runs = " ".join(keys[run.name] for run in recipe.runs)
        rows = [_row(table.recipe_title(recipe), styles[recipe.runs[0].name], cells, columns, runs)]
        if len(recipe.runs) > 1:
            rows += [
                _row(
                    f"seed {run.config.seed}" if _seeds_tell(recipe) else run.name,
                    styles[run.name],
                    table.run_cells(columns, run),
                    columns,
                    keys[run.name],
                    kind="seed",
                )
                for run in recipe.runs
            ]
        bodies.append(f"<tbody>{''.join(rows)}</tbody>")
    head = f"<thead><tr>{''.join(heads)}</tr></thead>"
    return f'<table id="runs" class="sortable">{head}{"".join(bodies)}</table>'


def _row(title: str, colour: str, cells, columns, runs: str, kind: str = "") -> str:
    name = f'<span class="name">{_swatch(colour)}<span>{escape(title)}</span></span>'
    parts = [f'<th scope="row">{name}</th>']
    for cell, column in zip(cells, columns, strict=True):
        if kind == "seed" and not column.mean and column.title != "epochs":
            parts.append("<td></td>")  # the same as in the recipe's row
            continue
        attributes = f' class="{"words" if column.of is None else "number"}"'
        if cell.value is not None:
            attributes += f' data-value="{cell.value!r}"'
        note = f"<small>{escape(cell.note)}</small>" if cell.note else ""
        parts.append(f"<td{attributes}>{escape(cell.text)}{note}</td>")
    return f'<tr class="{kind or "recipe"}" data-runs="{runs}">{"".join(parts)}</tr>'


def _seeds_tell(recipe: Recipe) -> bool:
    """Whether its runs are known apart by their seeds."""
    return len({run.config.seed for run in recipe.runs}) == len(recipe.runs)


def _swatch(colour: str) -> str:
    return f'<span class="swatch" style="background:{colour}"></span>'


def _legend(recipes: Sequence[Recipe], keys: dict, styles: dict) -> str:
    parts = []
    for recipe in recipes:
        buttons = []
        if len(recipe.runs) > 1:
            runs = " ".join(keys[run.name] for run in recipe.runs)
            buttons.append(_button(f'data-runs="{runs}"', "", recipe.name))
        for run in recipe.runs:
            alone = len(recipe.runs) == 1
            name = f"seed {run.config.seed}" if not alone and _seeds_tell(recipe) else run.name
            buttons.append(_button(f'data-run="{keys[run.name]}"', _swatch(styles[run.name]), name))
        parts.append(f'<span class="recipe">{"".join(buttons)}</span>')
    for all_of, text in (("on", "all"), ("off", "none")):
        parts.append(f'<button type="button" class="all" data-all="{all_of}">{text}</button>')
    return "".join(parts)


def _button(attributes: str, swatch: str, text: str) -> str:
    return f'<button type="button" aria-pressed="true" {attributes}>{swatch}{escape(text)}</button>'


def _charts(comparison: Comparison, keys: dict, styles: dict) -> str:
    runs = [run for run in comparison.runs if run.history]
    if not runs:
        return "<p>No run has ended an epoch yet.</p>"
    epoch_ticks = [t for t in curves.ticks(0, max(run.epochs for run in runs)) if t == int(t)]
    epochs = (
        lambda run: [entry["epoch"] for entry in run.history],
        _Scale(0, max(run.epochs for run in runs)),
        [(t, f"{t:g}") for t in epoch_ticks],
        "epoch",
    )
    unit, log, time_ticks = curves.time_axis([run.times for run in runs])
    start = min(run.times[0] for run in runs) if log else 0
    times = (
        lambda run: run.times,
        _Scale(start, max(run.times[-1] for run in runs), log),
        time_ticks,
        f"time{', logarithmic' if log else ''}{f' ({unit})' if unit else ''}",
    )
    quantities = {
        "accuracy on the test images": ("test_accuracy", lambda value: f"{100 * value:g} %"),
        "loss on the training images": ("train_loss", lambda value: f"{value:g}"),
    }
    charts = []
    for title, (key, write) in quantities.items():
        values = [entry[key] for run in runs for entry in run.history]
        low, high = (min(values), max(values)) if key == "test_accuracy" else (0, max(values))
        levels = curves.ticks(low, high if high > low else low + 0.01)
        y_axis = (_Scale(levels[0], levels[-1]), [(level, write(level)) for level in levels])
        target = comparison.target if key == "test_accuracy" else None
        for x_axis in (epochs, times):
            caption = f"{title[0].upper()}{title[1:]}, over {x_axis[3].partition(',')[0]}"
            charts.append(
                _chart(caption.partition(" (")[0], runs, key, x_axis, y_axis, target, keys, styles)
            )
    return "".join(charts)


class _Scale:
    """From values to a place between 0 and 1."""

    def __init__(self, low: float, high: float, log: bool = False):
        self._of = math.log if log else float
        self.low, self.high = low, high
        self._start = self._of(low)
        self._length = (self._of(high) - self._start) or 1.0

    def __call__(self, value: float) -> float:
        return (self._of(value) - self._start) / self._length


def _chart(caption, runs, key, x_axis, y_axis, target, keys, styles) -> str:
    x_values, x_scale, x_ticks, x_title = x_axis
    y_scale, y_ticks = y_axis
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def x(value):
        return round(_LEFT + x_scale(value) * (right - _LEFT), 2)

    def y(value):
        return round(bottom - y_scale(value) * (bottom - _TOP), 2)

    parts = []
    for value, text in y_ticks:
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y(value)}" y2="{y(value)}"/>'
        )
        parts.append(pages.svg_text(_LEFT - 8, y(value) + 4.5, text, "end"))
    for value, text in x_ticks:
        parts.append(
            f'<line class="grid" x1="{x(value)}" x2="{x(value)}" y1="{bottom}" y2="{bottom + 5}"/>'
        )
        parts.append(pages.svg_text(x(value), bottom + 26, text, "middle"))
    parts.append(pages.svg_text((_LEFT + right) / 2, _HEIGHT - 5, x_title, "middle"))
    if target is not None and y_scale.low < target < y_scale.high:
        parts.append(
            f'<line class="target" x1="{_LEFT}" x2="{right}" y1="{y(target)}" y2="{y(target)}">'
            f"<title>target</title></line>"
        )
    for run in runs:
        places = zip(x_values(run), run.history, run.times, strict=True)
        points = [(x(at), y(entry[key]), entry, time) for at, entry, time in places]
        parts.append(_line(run, points, keys[run.name], styles[run.name]))
    return (
        f"<figure><figcaption>{escape(caption)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(caption)}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _line(run: RunResult, points, key: str, colour: str) -> str:
    line = " ".join(f"{x:g},{y:g}" for x, y, _, _ in points)
    shown = points if len(points) <= _MOST_POINTS else points[-1:]
    circles = "".join(
        f'<circle cx="{x:g}" cy="{y:g}" r="2.6"><title>{escape(_point_text(run, entry, time))}'
        "</title></circle>"
        for x, y, entry, time in shown
    )
    return (
        f'<g data-run="{key}" fill="{colour}"><polyline points="{line}" stroke="{colour}">'
        f"<title>{escape(run.name)}</title></polyline>{circles}</g>"
    )


def _point_text(run: RunResult, entry: dict, time: float) -> str:
    return (
        f"{run.name}, epoch {entry['epoch']}, {reports.duration(time)}: "
        f"test accuracy {table.percent(entry['test_accuracy'])}, training loss {entry['train_loss']:.4g}"
    )


def _curves_note(comparison: Comparison) -> str:
    grouped = len(comparison.recipes) < len(comparison.runs)
    shades = " Shades of one colour are seeds of one recipe." if grouped else ""
    return (
        "All runs are on one scale. A click on a name switches its curves off and on; the dotted line "
        f"is the target of the table.{shades}"
    )


def _classes_table(title: str, class_names: Sequence[str], recipes: Sequence[Recipe]) -> str:
    of = [recipe.accuracy_per_class for recipe in recipes]
    values = [value for accuracies in of for value in accuracies.values() if value is not None]
    low, high = min(values, default=0), max(values, default=1)
    rows = []
    for name in class_names:
        cells = []
        for accuracies in of:
            value = accuracies.get(name)
            if value is None:
                cells.append(f'<td class="number">{table.NOTHING}</td>')
                continue
            share = round(60 * (value - low) / (high - low)) if high > low else 30
            cells.append(f'<td class="heat" style="--share:{share}%">{100 * value:.1f}</td>')
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    return (
        f"<h2>Accuracy per class: {escape(title)}</h2>"
        '<p class="faint">Per cent of the test images of each class after the last epoch, means over '
        "the seeds; for runs that have a report. The stronger the colour, the higher.</p>"
        f'<div class="scroll tall"><table class="classes">{_heads("class", recipes, "number")}'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _differences_table(recipes: Sequence[Recipe]) -> str:
    fields = differences(recipes)
    if not fields:
        return ""
    rows = []
    for name, values in fields.items():
        texts = [table.value_text(value) for value in values]
        usual = max(texts, key=texts.count)
        usual = usual if texts.count(usual) > 1 else None
        cells = [
            f"<td{' class=usual' if text == usual else ''}>{escape(text)}</td>" for text in texts
        ]
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    return (
        '<h2>What differs</h2><p class="faint">Fields that are not the same in all recipes; what most '
        "of them share is grey.</p>"
        f'<div class="scroll tall"><table class="differences">{_heads("field", recipes, "")}'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _heads(first: str, recipes: Sequence[Recipe], kind: str) -> str:
    heads = "".join(
        f'<th scope="col" class="{kind}">{escape(recipe.name)}</th>' for recipe in recipes
    )
    return f'<thead><tr><th scope="col">{first}</th>{heads}</tr></thead>'
