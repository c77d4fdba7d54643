"""The table of a comparison: its cells, for the page, compare.md and the terminal."""

import dataclasses
import re
from collections.abc import Callable, Sequence

from cifar_jax.comparing.comparison import Comparison, Recipe, RunResult, dataset_name, differences
from cifar_jax.reporting import reports

NOTHING = "-"


@dataclasses.dataclass(frozen=True)
class Column:
    """One quantity: its title and how to write it.

    Attributes:
      title: the heading of its column.
      text: run -> the text of its cell.
      of: run -> the number to sort by and to average, or None; absent for columns of words.
      mean: (mean, deviation or None) -> the text for a recipe with several runs. Absent if all runs of a
        recipe have the same text.
      note: run -> a small note after the text.
    """

    title: str
    text: Callable[[RunResult], str]
    of: Callable[[RunResult], float | None] | None = None
    mean: Callable[[float, float | None], str] | None = None
    note: Callable[[RunResult], str] | None = None


@dataclasses.dataclass(frozen=True)
class Cell:
    text: str
    value: float | None = None
    note: str = ""


def columns(comparison: Comparison) -> list[Column]:
    """The columns after the name."""
    target, goal, score = comparison.target, target_text(comparison), comparison.score_name
    found = [
        Column("model", lambda run: run.config.model.name),
        Column(
            "parameters",
            _or_nothing(lambda run: run.parameters, "{:,}".format),
            lambda run: run.parameters,
        ),
        Column(
            "multiply-adds",
            _or_nothing(lambda run: run.multiply_adds, millions),
            lambda run: run.multiply_adds,
        ),
        Column("epochs", _epochs, lambda run: run.epochs),
        Column(
            f"final {score}",
            _or_nothing(lambda run: run.final_score, percent),
            lambda run: run.final_score,
            percent_with_deviation,
        ),
        Column(
            f"best {score}",
            _or_nothing(lambda run: run.best_score, percent),
            lambda run: run.best_score,
            percent_with_deviation,
            lambda run: run.best and f"epoch {run.best['epoch']}, on {run.best['chosen_on']}",
        ),
        Column(
            f"time to {goal}",
            _or_nothing(lambda run: run.time_to(target), reports.duration),
            lambda run: run.time_to(target),
            lambda mean, _: reports.duration(mean),
        ),
        Column(
            f"epochs to {goal}",
            _or_nothing(lambda run: run.epochs_to(target), str),
            lambda run: run.epochs_to(target),
            lambda mean, _: f"{mean:.1f}",
        ),
        Column(
            "time",
            _or_nothing(_time, reports.duration),
            _time,
            lambda mean, _: reports.duration(mean),
        ),
        Column(
            "images/s",
            _or_nothing(lambda run: run.images_per_second, "{:,.0f}".format),
            lambda run: run.images_per_second,
            lambda mean, _: f"{mean:,.0f}",
        ),
        Column("device", lambda run: str(run.report.get("device") or NOTHING)),
    ]
    if len(comparison.datasets) > 1:
        found.insert(1, Column("images", lambda run: dataset_name(run.config)))
    return found


def run_cells(columns: Sequence[Column], run: RunResult) -> list[Cell]:
    """The cells of one run, one per column."""
    return [
        Cell(
            column.text(run),
            column.of(run) if column.of else None,
            (column.note(run) or "") if column.note else "",
        )
        for column in columns
    ]


def recipe_cells(columns: Sequence[Column], recipe: Recipe) -> list[Cell]:
    """The cells of a recipe: those of its only run, or means and deviations over its runs."""
    if len(recipe.runs) == 1:
        return run_cells(columns, recipe.runs[0])
    return [_recipe_cell(column, recipe) for column in columns]


def _recipe_cell(column: Column, recipe: Recipe) -> Cell:
    if not column.mean:
        texts = {column.text(run): None for run in recipe.runs}
        value = column.of(recipe.runs[-1]) if column.of else None
        return Cell(", ".join(texts) if len(texts) <= 2 else "several", value)
    mean = recipe.mean(column.of)
    if mean is None:
        return Cell(NOTHING)
    count, all_runs = len(recipe.values(column.of)), len(recipe.runs)
    note = f"{count} of {all_runs}" if count < all_runs else ""
    notes = {column.note(run).partition(", ")[2] for run in recipe.counted} if column.note else ()
    return Cell(
        column.mean(mean, recipe.deviation(column.of)),
        mean,
        ", ".join(filter(None, [note, *notes])),
    )


def recipe_title(recipe: Recipe) -> str:
    """The name, followed by the seeds if there are several."""
    if len(recipe.runs) == 1:
        return recipe.name
    return f"{recipe.name} (seeds {', '.join(str(run.config.seed) for run in recipe.runs)})"


def headline(comparison: Comparison) -> str:
    """The comparison in words: "9 runs of 7 recipes on cifar10, 2 of them not finished"."""
    runs, recipes = comparison.runs, comparison.recipes
    of = f" of {_plural(len(recipes), 'recipe')}" if len(recipes) < len(runs) else ""
    unfinished = sum(not run.finished for run in runs)
    rest = f", {unfinished} of them not finished" if unfinished else ""
    return f"{_plural(len(runs), 'run')}{of} on {', '.join(comparison.datasets)}{rest}"


def explanations(comparison: Comparison) -> list[str]:
    """Sentences that explain the columns."""
    chosen = (
        "given by --target_accuracy"
        if comparison.target_given
        else "the highest whole percent that at least half of the runs reach (--target_accuracy sets "
        "another)"
    )
    measured = "Accuracies are measured"
    if comparison.is_segmentation:
        measured = "Mean IoU (intersection over union, over the classes that occur) is measured"
    lines = [
        f"{measured} on the test images. Final is after the last epoch. Best is after the "
        "epoch that was best on the images named beside it; if these are the test images, it is slightly "
        "too high.",
        f"The target, {target_text(comparison)}, is {chosen}.",
        "Times include all epochs and their evaluations, but not the start of the program and the "
        "compilation of the steps. Multiply-adds are those of convolutions and dense layers in the forward "
        "pass of one image.",
    ]
    if len(comparison.recipes) < len(comparison.runs):
        lines.append(
            "Runs that differ only in their seed share a row: mean ± standard deviation of single runs, "
            "over the finished ones if there are any. A second run with the same seed is in a row of its own."
        )
    return lines


def to_markdown(comparison: Comparison, pictures: Sequence[str]) -> str:
    """compare.md: the tables as Markdown. `pictures` are the names of files beside it."""
    of = columns(comparison)
    rows = []
    for recipe in comparison.recipes:
        rows.append([recipe_title(recipe), *map(_with_note, recipe_cells(of, recipe))])
    aligned = [False] + [column.of is not None for column in of]
    lines = ["# Comparison", "", f"{headline(comparison)}.", ""]
    lines += _markdown_table(["run", *(column.title for column in of)], aligned, rows)
    lines += [line for text in explanations(comparison) for line in ("", text)]
    lines += [line for path in pictures for line in ("", f"![{path}]({path})")]
    names = [recipe.name for recipe in comparison.recipes]
    fields = differences(comparison.recipes)
    if fields:
        rows = [[name, *map(value_text, values)] for name, values in fields.items()]
        lines += ["", "## What differs", ""]
        lines += _markdown_table(["field", *names], [False] * (1 + len(names)), rows)
    for title, class_names, recipes in classes(comparison):
        rows = [
            [name, *(_share(recipe.score_per_class.get(name)) for recipe in recipes)]
            for name in class_names
        ]
        lines += ["", f"## {per_class_title(comparison)}: {_markdown(title)}", ""]
        heads = ["class", *(recipe.name for recipe in recipes)]
        lines += _markdown_table(heads, [False] + [True] * len(recipes), rows)
    if comparison.skipped:
        lines += ["", "Not shown:", "", *(f"- {_markdown(line)}" for line in comparison.skipped)]
    return "\n".join(lines) + "\n"


def to_text(comparison: Comparison) -> str:
    """The most important columns, for the terminal."""
    of = [c for c in columns(comparison) if c.title not in ("model", "images", "device")]
    rows = [["", *(column.title for column in of)]]
    for recipe in comparison.recipes:
        rows.append([recipe_title(recipe), *(cell.text for cell in recipe_cells(of, recipe))])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    )


def classes(comparison: Comparison) -> list[tuple[str, list[str], list[Recipe]]]:
    """For each data set: (its name, its classes, the recipes with a score per class)."""
    found: dict[tuple, list[Recipe]] = {}
    for recipe in comparison.recipes:
        names = tuple(recipe.score_per_class)
        if names:
            found.setdefault((dataset_name(recipe.runs[0].config), names), []).append(recipe)
    return [(title, list(names), recipes) for (title, names), recipes in found.items()]


def per_class_title(comparison: Comparison) -> str:
    """The heading of the tables with a row for each class."""
    return "IoU per class" if comparison.is_segmentation else "Accuracy per class"


def target_text(comparison: Comparison) -> str:
    """The target in words: "75 %", with a space that no line break can replace."""
    return f"{100 * comparison.target:.6g}\N{NO-BREAK SPACE}%"


def percent(fraction: float) -> str:
    """A fraction as "83.17 %"; only 1 itself is "100.00 %"."""
    return f"{100 * fraction if fraction == 1 else min(100 * fraction, 99.99):.2f} %"


def percent_with_deviation(mean: float, deviation: float | None) -> str:
    """Mean and deviation as "93.21 ± 0.12 %"."""
    if deviation is None:
        return percent(mean)
    return f"{100 * mean:.2f} ± {100 * deviation:.2f} %"


def millions(count: float) -> str:
    """A number in millions with three digits: "0.652 M", "40.8 M", "555 M"."""
    value = count / 1e6
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{decimals}f} M"


def value_text(value) -> str:
    """The value of a field, written as on the command line."""
    if isinstance(value, list):
        return f"({', '.join(map(str, value))}{',' if len(value) == 1 else ''})"
    return NOTHING if value is None else str(value)


def _or_nothing(of, write):
    return lambda run: NOTHING if (value := of(run)) is None else write(value)


def _epochs(run: RunResult) -> str:
    done, wanted = run.epochs, run.config.num_epochs
    return str(done) if done == wanted else f"{done} of {wanted}"


def _time(run: RunResult) -> float | None:
    return run.times[-1] if run.times else None


def _share(fraction: float | None) -> str:
    return NOTHING if fraction is None else f"{100 * fraction:.1f} %"


def _with_note(cell: Cell) -> str:
    return f"{cell.text} ({cell.note})" if cell.note else cell.text


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _markdown(text: str) -> str:
    """Text with escapes, so that Markdown shows it unchanged."""
    # An underscore inside a word needs no escape.
    return re.sub(r"[\\`*\[\]<>|]|\b_|_\b", r"\\\g<0>", " ".join(text.split()))


def _markdown_table(heads, right_aligned, rows) -> list[str]:
    lines = [heads, ["---:" if right else "---" for right in right_aligned]]
    text = [[_markdown(cell) for cell in row] for row in [heads, *rows]]
    text.insert(1, lines[1])
    return [f"| {' | '.join(row)} |" for row in text]
