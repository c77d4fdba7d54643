"""The comparison page, and next to it the same as compare.md and PNG files for reports."""

import os

from cifar_jax.comparing import FOLDER, Comparison, curves, table
from cifar_jax.errors import UserError
from cifar_jax.pages import comparison_tables as tables
from cifar_jax.pages.comparison_charts import FRAME, charts
from cifar_jax.pages.rendering import render
from cifar_jax.reporting import reports
from cifar_jax.system import files


def write(comparison: Comparison) -> list[str]:
    """Writes the page and the files for reports into `compare`, in the common folder of the runs.

    Returns:
      The paths of the files, the page first.

    Raises:
      UserError: the folder cannot be made or a file cannot be written.
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


def to_html(comparison: Comparison, colours: dict[str, str]) -> str:
    """Returns the text of the page. `colours` maps the name of each run to a colour like "#0072B2"."""
    marks = tables.marks(comparison, colours)
    recipes = comparison.recipes
    return render(
        "comparison.html",
        title=table.headline(comparison),
        subtitle=comparison.folder,
        skipped=comparison.skipped,
        runs=tables.runs_table(comparison, marks),
        explanations=[tables.flags_apart(line) for line in table.explanations(comparison)],
        legend=tables.legend(recipes, marks),
        frame=FRAME,
        charts=charts(comparison, marks),
        is_grouped=len(recipes) < len(comparison.runs),
        classes=[tables.classes_table(*part) for part in table.classes(comparison)],
        differences=tables.differences_table(recipes),
        nothing=table.NOTHING,
        score=comparison.score_name,
        per_class=table.per_class_title(comparison),
    )
