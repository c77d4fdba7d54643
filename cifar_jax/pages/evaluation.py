"""The page of an evaluation: which classes the network confuses, how sure it is, and whether its
probabilities can be trusted. The page is one file with the images in it.
"""

import os

import numpy as np

from cifar_jax.inference import Result
from cifar_jax.pages import evaluation_tables as tables
from cifar_jax.pages.evaluation_calibration import FRAME, diagram, summary
from cifar_jax.pages.evaluation_choice import Choice, choose
from cifar_jax.pages.evaluation_sheet import SIDE, Sheet, picture_sheet
from cifar_jax.pages.rendering import render
from cifar_jax.reporting import reports
from cifar_jax.storage import workdir


def write(folder: str, result: Result, images, labels, title: str, subtitle: str) -> str:
    """Writes the page as index.html into `folder`. Makes the folder if it is missing.

    Args:
      folder: its path.
      result: with probabilities and calibration.
      images: uint8 [N, size, size, 3], in the order of the probabilities.
      labels: int [N], their true classes.
      title: the network and the images.
      subtitle: which weights the network has.

    Returns:
      The path of the page.

    Raises:
      UserError: the page cannot be written.
    """
    workdir.make_folder(folder)
    path = os.path.join(folder, "index.html")
    reports.write_text(path, to_html(result, images, labels, title, subtitle))
    return path


def to_html(result: Result, images, labels, title: str, subtitle: str) -> str:
    """Returns the text of the page; the arguments are those of `write`."""
    labels, confusion = np.asarray(labels), result.confusion
    choice = choose(result, labels)
    sheet = picture_sheet(images, choice.pictures)
    return render(
        "evaluation.html",
        title=title,
        subtitle=subtitle,
        names=result.class_names,
        figures=_figures(result),
        augmented=_figures(result.augmented) if result.augmented else None,
        matrix=tables.matrix(confusion) if choice.with_matrix else None,
        frequent=[tables.cell(confusion, i, j) for i, j in choice.frequent],
        mistakes={
            "count": result.count - int(np.trace(confusion)),
            "shown": len(choice.mistakes),
        },
        classes=tables.class_rows(result, set(choice.behind)),
        calibration=summary(result),
        frame=FRAME,
        diagram=diagram(result.calibration),
        data=_script_data(result, labels, choice, sheet),
        **_sheet_style(sheet),
    )


def _figures(result: Result) -> dict:
    return {
        "accuracy": result.accuracy,
        "count": result.count,
        "loss": result.loss,
        "views": result.views,
    }


def _sheet_style(sheet: Sheet) -> dict:
    """The values that the style sheet needs to cut images out of the sheet."""
    side = sheet.side
    return {
        "sheet": sheet.uri,
        "sheet_width": sheet.columns * sheet.pitch,
        "side": side,
        "zoom": SIDE // side,
        # The surest mistakes are there to be looked at closely. Visible pixels need a whole number.
        "large_zoom": 3 * SIDE // 2 // side if side <= SIDE // 2 else 1.5,
        "image_rendering": "pixelated" if side <= SIDE // 2 else "auto",
    }


def _script_data(result: Result, labels: np.ndarray, choice: Choice, sheet: Sheet) -> dict:
    """What the page's script needs to show the images of a cell."""
    on_sheet = {place: i for i, place in enumerate(choice.pictures)}
    return {
        "classes": result.class_names,
        "pictures": [
            [place, round(float(choice.confidence[place]), 6)] for place in choice.pictures
        ],
        "columns": sheet.columns,
        "pitch": sheet.pitch,
        "cells": {
            f"{i},{j}": [int(result.confusion[i, j]), [on_sheet[place] for place in places]]
            for (i, j), places in choice.behind.items()
        },
        "mistakes": [
            [int(labels[place]), int(choice.predicted[place]), on_sheet[place]]
            for place in choice.mistakes
        ],
    }
