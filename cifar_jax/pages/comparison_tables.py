"""The tables and the legend of the comparison page, as plain data."""

import dataclasses
import re
from collections.abc import Sequence

from cifar_jax.comparing import Comparison, Recipe, RunResult, differences, table


@dataclasses.dataclass(frozen=True)
class Mark:
    """Identifies a run in its row, button and curves: a key for the script, and a colour."""

    key: str
    colour: str


@dataclasses.dataclass(frozen=True)
class Heading:
    """A column of the table of runs.

    Attributes:
      words: whether it holds words rather than numbers.
      first: "ascending" or "descending", the order after the first click.
      is_sorted: whether the table starts sorted by this column.
    """

    title: str
    words: bool
    first: str
    is_sorted: bool


@dataclasses.dataclass(frozen=True)
class RunCell:
    """`kind` is "words" or "number". `value` is the number to sort by. `note` is small print under `text`."""

    kind: str
    text: str
    value: float | None
    note: str


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table of runs.

    Attributes:
      kind: "recipe", or "seed" for one of several runs of a recipe.
      runs: the keys of its runs, separated by spaces.
      cells: None leaves a cell empty, because the recipe's row shows the same.
    """

    kind: str
    title: str
    colour: str
    runs: str
    cells: list[RunCell | None]


@dataclasses.dataclass(frozen=True)
class Button:
    """A button of the legend. It has a colour for one run, and none for all runs of a recipe."""

    title: str
    runs: str
    colour: str | None = None


@dataclasses.dataclass(frozen=True)
class ClassCell:
    """The accuracy or IoU of a class as a fraction, and how strong the cell's colour is, in per cent."""

    share: float
    heat: int


@dataclasses.dataclass(frozen=True)
class FieldCell:
    text: str
    is_usual: bool


def marks(comparison: Comparison, colours: dict[str, str]) -> dict[str, Mark]:
    """Maps the name of each run to its mark. `colours` maps the name to a colour."""
    return {run.name: Mark(f"run{i}", colours[run.name]) for i, run in enumerate(comparison.runs)}


def runs_table(comparison: Comparison, marks: dict[str, Mark]) -> dict:
    """{"columns": the headings, "recipes": the rows of each recipe: its own, then those of several runs}."""
    columns = table.columns(comparison)
    return {
        "columns": [_heading(column) for column in columns],
        "recipes": [_rows(columns, recipe, marks) for recipe in comparison.recipes],
    }


def _heading(column: table.Column) -> Heading:
    # The first click puts the best on top: the highest score, the shortest time.
    high = column.title.startswith(("final", "best")) or column.title == "images/s"
    return Heading(
        column.title,
        words=column.of is None,
        first="descending" if high else "ascending",
        is_sorted=column.title.startswith("final"),
    )


def _rows(columns: Sequence[table.Column], recipe: Recipe, marks: dict[str, Mark]) -> list[Row]:
    cells = [
        _cell(column, cell)
        for column, cell in zip(columns, table.recipe_cells(columns, recipe), strict=True)
    ]
    colour = marks[recipe.runs[0].name].colour
    rows = [Row("recipe", table.recipe_title(recipe), colour, _keys(recipe, marks), cells)]
    if len(recipe.runs) == 1:
        return rows
    for run in recipe.runs:
        cells = [
            _cell(column, cell) if column.mean or column.title == "epochs" else None
            for column, cell in zip(columns, table.run_cells(columns, run), strict=True)
        ]
        mark = marks[run.name]
        rows.append(Row("seed", _run_title(recipe, run), mark.colour, mark.key, cells))
    return rows


def _cell(column: table.Column, cell: table.Cell) -> RunCell:
    return RunCell("words" if column.of is None else "number", cell.text, cell.value, cell.note)


def _keys(recipe: Recipe, marks: dict[str, Mark]) -> str:
    return " ".join(marks[run.name].key for run in recipe.runs)


def _run_title(recipe: Recipe, run: RunResult) -> str:
    """The seed of one of several runs, or its name if runs share a seed."""
    different = len({run.config.seed for run in recipe.runs}) == len(recipe.runs)
    return f"seed {run.config.seed}" if different else run.name


def legend(recipes: Sequence[Recipe], marks: dict[str, Mark]) -> list[list[Button]]:
    """The buttons of each recipe: first one for all its runs if there are several, then one per run."""
    groups = []
    for recipe in recipes:
        several = len(recipe.runs) > 1
        buttons = [Button(recipe.name, _keys(recipe, marks))] if several else []
        for run in recipe.runs:
            mark = marks[run.name]
            title = _run_title(recipe, run) if several else run.name
            buttons.append(Button(title, mark.key, mark.colour))
        groups.append(buttons)
    return groups


def classes_table(title: str, class_names: Sequence[str], recipes: Sequence[Recipe]) -> dict:
    """The accuracy or IoU per class of one data set: one row per class, one column per recipe."""
    of = [recipe.score_per_class for recipe in recipes]
    values = [value for accuracies in of for value in accuracies.values() if value is not None]
    low, high = min(values, default=0), max(values, default=1)

    def cell(value: float | None) -> ClassCell | None:
        if value is None:
            return None
        return ClassCell(value, round(60 * (value - low) / (high - low)) if high > low else 30)

    rows = [
        {"name": name, "cells": [cell(accuracies.get(name)) for accuracies in of]}
        for name in class_names
    ]
    return {"title": title, "recipes": [recipe.name for recipe in recipes], "rows": rows}


def differences_table(recipes: Sequence[Recipe]) -> dict:
    """The config fields that differ between the recipes: one row per field, one column per recipe."""
    rows = []
    for name, values in differences(recipes).items():
        texts = [table.value_text(value) for value in values]
        usual = max(texts, key=texts.count)
        shared = texts.count(usual) > 1
        cells = [FieldCell(text, is_usual=shared and text == usual) for text in texts]
        rows.append({"name": name, "cells": cells})
    return {"recipes": [recipe.name for recipe in recipes], "rows": rows}


def flags_apart(text: str) -> list[dict]:
    """Splits a sentence so that each flag, such as --mode, is a piece: lines must not break inside it."""
    pieces = re.split(r"(--\w+)", text)
    return [{"text": piece, "is_flag": i % 2 == 1} for i, piece in enumerate(pieces)]
