"""The evaluation page: accuracy, confusions with their images, mistakes, and calibration. One file that
contains the images too.
"""

import numpy as np

from cifar_jax.inference import Result
from cifar_jax.pages import evaluation_tables as tables
from cifar_jax.pages.evaluation_calibration import FRAME, diagram, summary
from cifar_jax.pages.evaluation_choice import Choice, choose
from cifar_jax.pages.evaluation_sheet import SIDE, Sheet, image_sheet
from cifar_jax.pages.rendering import render, write_index


def write(folder: str, result: Result, images, labels, title: str, subtitle: str) -> str:
    """Writes the page as index.html into `folder`. Makes the folder if it is missing.

    Args:
      folder: its path.
      result: with probabilities and calibration.
      images: uint8 [N, size, size, 3], in the order of the probabilities.
      labels: int [N], their true classes.
      title: names the network and the images.
      subtitle: names the weights.

    Returns:
      The path of the page.

    Raises:
      UserError: the page cannot be written.
    """
    return write_index(folder, to_html(result, images, labels, title, subtitle))


def to_html(result: Result, images, labels, title: str, subtitle: str) -> str:
    """Returns the text of the page; the arguments are those of `write`."""
    labels, confusion = np.asarray(labels), result.confusion
    choice = choose(result, labels)
    sheet = image_sheet(images, choice.all_images)
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
        classes=tables.class_rows(result, set(choice.images)),
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
    """The values with which the CSS shows one image of the sheet at a time."""
    side = sheet.side
    return {
        "sheet": sheet.uri,
        "sheet_width": sheet.columns * sheet.pitch,
        "side": side,
        "zoom": SIDE // side,
        # For the most confident mistakes. If pixels are visible, they need a whole number.
        "large_zoom": 3 * SIDE // 2 // side if side <= SIDE // 2 else 1.5,
        "image_rendering": "pixelated" if side <= SIDE // 2 else "auto",
    }


def _script_data(result: Result, labels: np.ndarray, choice: Choice, sheet: Sheet) -> dict:
    """The data for evaluation.js: the images of each cell, and the mistakes."""
    on_sheet = {image: place for place, image in enumerate(choice.all_images)}
    return {
        "classes": result.class_names,
        "images": [[i, round(float(choice.confidence[i]), 6)] for i in choice.all_images],
        "columns": sheet.columns,
        "pitch": sheet.pitch,
        "cells": {
            f"{i},{j}": [int(result.confusion[i, j]), [on_sheet[image] for image in images]]
            for (i, j), images in choice.images.items()
        },
        "mistakes": [
            [int(labels[image]), int(choice.predicted[image]), on_sheet[image]]
            for image in choice.mistakes
        ],
    }
