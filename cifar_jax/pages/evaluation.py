"""An evaluation as one HTML file with the pictures in it: what is taken for what, how surely, and whether
the probabilities can be believed. It needs nothing else: no server, no network, no other file.
"""

import base64
import io
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from cifar_jax import pages
from cifar_jax.inference import BINS, Calibration, Result
from cifar_jax.reporting import reports
from cifar_jax.storage import workdir

_TEMPLATE = Path(__file__).with_suffix(".html")
MOST_OF_A_CELL = 24
MISTAKES = 24
# In the page at all: with 32x32 pixels each, it stays below 7 MB.
MOST_PICTURES = 2000
# Above that a matrix is too large to look at, and what is confused most is listed instead.
MOST_CLASSES = 100
FREQUENT, FREQUENT_WITHOUT_MATRIX = 10, 100
# Pixels of a picture's side in the page; larger ones are shrunk, smaller ones drawn in larger pixels.
SIDE = 64
# Of the reliability diagram, and of the margins and the chart of counts in it.
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP = 560, 500, 60, 14, 12
_BOTTOM, _COUNTS_TOP, _COUNTS_BOTTOM = 320, 368, 442
_MATRIX_NOTE = (
    "How many images of each class were predicted as which. A click on a number, or the arrow keys and "
    "Enter, show the pictures behind it."
)
_TABLE_NOTE = "A click on a number shows the pictures behind it."


def write(folder: str, result: Result, images, labels, title: str, subtitle: str) -> str:
    """Writes the page as index.html into `folder`, which is made where there is none.

    Args:
      folder: its path.
      result: with probabilities and calibration.
      images: uint8 [N, size, size, 3], in the order of the probabilities.
      labels: int [N], their true classes.
      title: what was evaluated on what.
      subtitle: which weights those are.

    Returns:
      The path of the page.

    Raises:
      UserError: it cannot be written.
    """
    workdir.make_folder(folder)
    path = os.path.join(folder, "index.html")
    reports.write_text(path, to_html(result, images, labels, title, subtitle))
    return path


def to_html(result: Result, images, labels, title: str, subtitle: str) -> str:
    """The page; the arguments are those of `write`."""
    # A network that overflows gives NaN, which JSON has not.
    probabilities = np.nan_to_num(result.probabilities)
    labels, predicted = np.asarray(labels), probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    names, confusion = result.class_names, result.confusion
    with_matrix = len(names) <= MOST_CLASSES
    frequent = frequent_confusions(confusion, FREQUENT if with_matrix else FREQUENT_WITHOUT_MATRIX)
    cells = [(int(i), int(j)) for i, j in np.argwhere(confusion)] if with_matrix else frequent
    behind, mistakes = choose_pictures(labels, predicted, confidence, cells)
    shown = sorted({place for places in behind.values() for place in places} | set(mistakes))
    place_on_sheet = {place: i for i, place in enumerate(shown)}
    sheet, columns, pitch = picture_sheet(images, shown)
    side = min(images.shape[1], SIDE)
    data = {
        "classes": names,
        "pictures": [[place, round(float(confidence[place]), 6)] for place in shown],
        "columns": columns,
        "pitch": pitch,
        "cells": {
            f"{i},{j}": [int(confusion[i, j]), [place_on_sheet[place] for place in places]]
            for (i, j), places in behind.items()
        },
        "mistakes": [
            [int(labels[place]), int(predicted[place]), place_on_sheet[place]] for place in mistakes
        ],
    }
    return pages.fill(
        _TEMPLATE,
        title=escape(title),
        subtitle=escape(subtitle),
        figures=_figures(result),
        sheet=sheet,
        sheet_width=str(columns * pitch),
        side=str(side),
        zoom=str(SIDE // side),
        # That of the surest mistakes, which are to be looked at closely: by whole pixels, where they show.
        large_zoom=str(3 * SIDE // 2 // side if side <= SIDE // 2 else 1.5),
        rendering="pixelated" if side <= SIDE // 2 else "auto",
        confusions_title="Confusion matrix" if with_matrix else "The most frequent confusions",
        confusions_note=_MATRIX_NOTE if with_matrix else _TABLE_NOTE,
        confusions=_confusions(confusion, names, frequent, with_matrix),
        mistakes_note=_mistakes_note(result, len(mistakes)),
        classes=_classes_table(result, set(behind)),
        calibration_words=escape(_calibration_words(result)).replace(" %", "&nbsp;%"),
        diagram=_reliability_diagram(result.calibration),
        bins=_bins_table(result.calibration),
        data=pages.json_text(data),
    )


def frequent_confusions(confusion: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Up to `most` cells (true, predicted) off the diagonal that hold images, the fullest first."""
    wrong = np.array(confusion)
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[: min(most, np.count_nonzero(wrong))]
    return [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)]


def choose_pictures(
    labels: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, cells: Sequence
) -> tuple[dict[tuple[int, int], list[int]], list[int]]:
    """Which images the page holds: for each cell its surest ones, and the surest mistakes of all.

    Where they are more than MOST_PICTURES, those stay that are the surest of their cell, then the
    second of theirs, and so on.

    Args:
      labels: int [N], true classes.
      predicted: int [N], predicted classes.
      confidence: float [N], the probability of the predicted class.
      cells: (true, predicted) classes.

    Returns:
      The images of each cell and the mistakes, as places in [0, N), the surest first.
    """
    surest = np.argsort(-confidence, kind="stable")
    mistakes = surest[(labels != predicted)[surest]][:MISTAKES].tolist()
    behind = {cell: [] for cell in cells}
    ranked = []
    for place in surest.tolist():
        places = behind.get((int(labels[place]), int(predicted[place])))
        if places is not None and len(places) < MOST_OF_A_CELL:
            ranked.append((len(places), len(ranked), place))
            places.append(place)
    by_rank = [place for _, _, place in sorted(ranked)]
    kept = set(list(dict.fromkeys(mistakes + by_rank))[:MOST_PICTURES])
    return {cell: [p for p in places if p in kept] for cell, places in behind.items()}, mistakes


def picture_sheet(images: np.ndarray, places: Sequence[int]) -> tuple[str, int, int]:
    """Images side by side in one picture.

    Args:
      images: uint8 [N, size, size, 3]; those larger than SIDE are shrunk to it.
      places: which of them, row by row.

    Returns:
      The picture as a data URI, how many are in a row of it, and how many pixels they are apart.
    """
    side = min(images.shape[1], SIDE)
    # To the bit as a PNG while they are small: larger ones would take four times the bytes of a JPEG. In
    # that, pictures are apart by whole blocks and fill them, so that none runs into its neighbour.
    exact = side <= 32
    pitch = side if exact else -(-side // 8) * 8
    columns = max(1, int(np.ceil(np.sqrt(len(places)))))
    rows = max(1, -(-len(places) // columns))
    sheet = np.zeros((rows * pitch, columns * pitch, 3), np.uint8)
    for i, place in enumerate(places):
        image = images[place]
        if side < image.shape[0]:
            picture = Image.fromarray(image)
            image = picture.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=3)
        top, left = i // columns * pitch, i % columns * pitch
        margin = (0, pitch - side)
        image = np.pad(image, (margin, margin, (0, 0)), mode="edge")
        sheet[top : top + pitch, left : left + pitch] = image
    buffer = io.BytesIO()
    if exact:
        Image.fromarray(sheet).save(buffer, "PNG")
    else:
        Image.fromarray(sheet).save(buffer, "JPEG", quality=90, subsampling=0)
    text = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{'png' if exact else 'jpeg'};base64,{text}", columns, pitch


def _figures(result: Result) -> str:
    figures = [
        ("accuracy", _percent(result.accuracy), f"of {result.count:,} images"),
        ("loss", f"{result.loss:.4f}", "mean cross-entropy"),
        (
            "expected calibration error",
            _percent(result.calibration.expected_error),
            "confidence against accuracy",
        ),
    ]
    if result.augmented:
        figures.append(
            (
                "accuracy with test-time augmentation",
                _percent(result.augmented.accuracy),
                f"{result.augmented.views}; loss {result.augmented.loss:.4f}",
            )
        )
    return "".join(
        f"<div><dt>{name}</dt><dd>{value}</dd><dd><small>{escape(note)}</small></dd></div>"
        for name, value, note in figures
    )


def _confusions(confusion, names, frequent, with_matrix: bool) -> str:
    if not with_matrix:
        return _frequent_table(confusion, names, frequent)
    chips = "".join(
        f'<button type="button" data-cell="{i},{j}">{_confusion_words(names, i, j)} '
        f"<b>{confusion[i, j]:,}</b></button>"
        for i, j in frequent
    )
    label = "The most frequent confusions"
    return _matrix(confusion, names) + (
        f'<div class="under"><p class="faint">{label}, the true class first:</p>'
        f'<div class="chips" role="group" aria-label="{label}">{chips}</div></div>'
        if chips
        else ""
    )


def _confusion_words(names: Sequence[str], i: int, j: int) -> str:
    return f"{escape(names[i])} → {escape(names[j])}"


def _matrix(confusion: np.ndarray, names: Sequence[str]) -> str:
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    heads = "".join(
        f'<th scope="col" title="{escape(name)}"><span>{escape(name)}</span></th>' for name in names
    )
    rows = []
    for i, name in enumerate(names):
        cells = []
        for j, count in enumerate(confusion[i].tolist()):
            if not count:
                cells.append("<td></td>")
                continue
            # A square-root scale: the errors are small beside the diagonal, and they are looked for here.
            heat = f"--share:{80 * shares[i, j] ** 0.5:.0f}%"
            words = f"{_confusion_words(names, i, j)}: {count:,} ({_percent(shares[i, j])})"
            cells.append(
                f'<td class="heat" style="{heat}"><button type="button" data-cell="{i},{j}" '
                f'title="{words}">{count}</button></td>'
            )
        rows.append(
            f'<tr><th scope="row" title="{escape(name)}">{escape(name)}</th>{"".join(cells)}</tr>'
        )
    return (
        '<div class="scroll tall"><table class="matrix"><thead><tr><th scope="col"><small>true class ↓'
        f"<br>predicted →</small></th>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _frequent_table(confusion, names, frequent) -> str:
    heads = "".join(
        (
            pages.sort_head("true class", words=True),
            pages.sort_head("predicted class", words=True),
            pages.sort_head("images", first="descending", is_sorted=True),
            pages.sort_head("of the true class", first="descending"),
        )
    )
    sizes = confusion.sum(axis=1)
    rows = "".join(
        f'<tbody><tr><th scope="row">{escape(names[i])}</th><td class="words">{escape(names[j])}</td>'
        f'<td class="number" data-value="{confusion[i, j]}">'
        f'<button type="button" data-cell="{i},{j}">{confusion[i, j]:,}</button></td>'
        f"{_number(confusion[i, j] / sizes[i])}</tr></tbody>"
        for i, j in frequent
    )
    return (
        '<div class="scroll tall"><table class="frequent sortable">'
        f"<thead><tr>{heads}</tr></thead>{rows}</table></div>"
    )


def _number(fraction: float) -> str:
    return f'<td class="number" data-value="{fraction:.9g}">{_percent(fraction)}</td>'


def _mistakes_note(result: Result, shown: int) -> str:
    count = result.count - int(np.trace(result.confusion))
    if not count:
        return "There is no mistake."
    which = f"The {shown} surest of {count:,} mistakes" if shown < count else "All mistakes"
    return f"{which}: the true class, the predicted one and the probability that was given to that."


def _classes_table(result: Result, clickable: set) -> str:
    heads = "".join(
        (
            pages.sort_head("class", words=True),
            pages.sort_head("images", first="descending"),
            pages.sort_head("accuracy", is_sorted=True),
            pages.sort_head("most often taken for", words=True),
        )
    )
    accuracies = list(result.accuracy_per_class.items())
    worst_first = sorted(
        range(len(accuracies)), key=lambda i: (accuracies[i][1] is None, accuracies[i][1] or 0)
    )
    rows = []
    for i in worst_first:
        name, accuracy = accuracies[i]
        others = np.array(result.confusion[i])
        count = int(others.sum())
        others[i] = 0
        j = int(others.argmax())
        words = f"{escape(result.class_names[j])} ({others[j]:,})" if others[j] else ""
        if (i, j) in clickable and others[j]:
            words = f'<button type="button" data-cell="{i},{j}">{words}</button>'
        share = (
            '<td class="number">-</td>'
            if accuracy is None
            else f'<td class="bar number" data-value="{accuracy!r}" style="--share:{accuracy:.2%}">'
            f"<span>{_percent(accuracy)}</span></td>"
        )
        rows.append(
            f'<tbody><tr><th scope="row">{escape(name)}</th>'
            f'<td class="number" data-value="{count}">{count:,}</td>{share}'
            f'<td class="words">{words}</td></tr></tbody>'
        )
    return f'<table class="sortable classes"><thead><tr>{heads}</tr></thead>{"".join(rows)}</table>'


def _calibration_words(result: Result) -> str:
    calibration = result.calibration
    mean = float(np.sum(calibration.count * calibration.confidence) / calibration.count.sum())
    if round(100 * mean, 2) == round(100 * result.accuracy, 2):
        promise = ""
    elif mean > result.accuracy:
        promise = ": it promises more than it keeps"
    else:
        promise = ": it is better than it says"
    return (
        f"The expected calibration error is {_percent(calibration.expected_error)}: that far is the "
        "confidence of predictions (the probability of the predicted class) from the share of them that is "
        "right, bin by bin and on average over all predictions. Of predictions made with a confidence of "
        f"80 %, 80 % should be right. This network is {_percent(mean)} confident on average and "
        f"{_percent(result.accuracy)} of its predictions are right{promise}."
    )


def _reliability_diagram(calibration: Calibration) -> str:
    right = _WIDTH - _RIGHT
    most = int(calibration.count.max())

    def x(share):
        return round(_LEFT + share * (right - _LEFT), 2)

    def y(share):
        return round(_BOTTOM - share * (_BOTTOM - _TOP), 2)

    def bar(kind, i, low, high, inset):
        left, width = x(i / BINS) + inset, x((i + 1) / BINS) - x(i / BINS) - 2 * inset
        return (
            f'<rect class="{kind}" data-bin="{i}" x="{left:g}" y="{high:g}" width="{width:g}" '
            f'height="{max(low - high, 0):g}"/>'
        )

    parts = [
        '<pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><line x1="1.5" x2="1.5" y2="7"/></pattern>'
    ]
    for share in np.linspace(0, 1, 6):
        text = f"{100 * share:.0f} %"
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y(share)}" y2="{y(share)}"/>'
        )
        parts.append(pages.svg_text(_LEFT - 8, y(share) + 4.5, text, "end"))
        parts.append(
            f'<line class="grid" x1="{x(share)}" x2="{x(share)}" y1="{_COUNTS_BOTTOM}" '
            f'y2="{_COUNTS_BOTTOM + 5}"/>'
        )
        parts.append(pages.svg_text(x(share), _COUNTS_BOTTOM + 24, text, "middle"))
    parts.append(
        f'<rect class="frame" x="{_LEFT}" y="{_TOP}" width="{right - _LEFT}" height="{_BOTTOM - _TOP}"/>'
        f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{_COUNTS_BOTTOM}" y2="{_COUNTS_BOTTOM}"/>'
    )
    for i in np.flatnonzero(calibration.count).tolist():
        accuracy, confidence = float(calibration.accuracy[i]), float(calibration.confidence[i])
        low, high = sorted((accuracy, confidence))
        height = calibration.count[i] / most * (_COUNTS_BOTTOM - _COUNTS_TOP)
        parts.append(
            f"<g><title>{escape(_bin_words(calibration, i))}</title>"
            + bar("accuracy", i, _BOTTOM, y(accuracy), 1)
            + bar("gap", i, y(low), y(high), 2.5)
            + bar("count", i, _COUNTS_BOTTOM, round(_COUNTS_BOTTOM - height, 2), 1)
            + "</g>"
        )
    parts.append(
        f'<line class="diagonal" x1="{_LEFT}" x2="{right}" y1="{_BOTTOM}" y2="{_TOP}"/>'
        + pages.svg_text(
            _LEFT, _COUNTS_TOP - 16, f"predictions in each bin, up to {most:,}", "start"
        )
        + pages.svg_text((_LEFT + right) / 2, _HEIGHT - 6, "confidence", "middle")
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Reliability diagram">'
        f"{''.join(parts)}</svg>"
    )


def _bin_words(calibration: Calibration, i: int) -> str:
    return (
        f"{calibration.count[i]:,} predictions with a mean confidence of "
        f"{_percent(calibration.confidence[i])}, of which {_percent(calibration.accuracy[i])} are right"
    )


def _bins_table(calibration: Calibration) -> str:
    rows = "".join(
        f'<tr><th scope="row">{100 * i / BINS:.0f} to {100 * (i + 1) / BINS:.0f} %</th>'
        f'<td class="number">{calibration.count[i]:,}</td>'
        f'<td class="number">{_percent(calibration.confidence[i])}</td>'
        f'<td class="number">{_percent(calibration.accuracy[i])}</td>'
        f'<td class="number">{100 * (calibration.accuracy[i] - calibration.confidence[i]):+.2f}</td></tr>'
        for i in np.flatnonzero(calibration.count).tolist()
    )
    heads = "".join(
        f'<th scope="col" class="number">{title}</th>'
        for title in ("predictions", "mean confidence", "accuracy", "difference")
    )
    return (
        f'<table class="bins"><thead><tr><th scope="col">confidence</th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"
