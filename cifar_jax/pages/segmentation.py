"""The page of a segmentation network's evaluation: the worst pictures and a sample of the rest, each with its
true and predicted mask; IoU per class and confusions. One file that contains the images too.
"""

import dataclasses

import numpy as np

from cifar_jax.data import masks
from cifar_jax.inference import SegmentationResult
from cifar_jax.pages import evaluation_tables as tables
from cifar_jax.pages.evaluation_choice import frequent_confusions
from cifar_jax.pages.evaluation_sheet import data_uri, shrunk
from cifar_jax.pages.rendering import render, write_index

# The number of pictures of each part, and their height and width in the page, at most.
WORST, SAMPLE, SIDE = 12, 12, 192
# With more classes, a matrix is too large to read.
MOST_CLASSES = 40
FREQUENT = 20


@dataclasses.dataclass(frozen=True)
class ClassRow:
    """A class: its colour for CSS, its share of the pixels, its IoU (None: it does not occur), and the class
    that its pixels are most often mistaken for.
    """

    name: str
    colour: str
    share: float
    iou: float | None
    mistaken_for: tables.Cell | None


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture, its true and its predicted mask side by side as a data URI, and how well it is segmented."""

    index: int
    uri: str
    mean_iou: float
    accuracy: float


def write(
    folder: str, result: SegmentationResult, images, labels, colours, title: str, subtitle: str
) -> str:
    """Writes the page as index.html into `folder`. Makes the folder if it is missing.

    Args:
      folder: its path.
      result: with predictions.
      images: uint8 [N, size, size, 3].
      labels: masks uint8 [N, size, size].
      colours: (red, green, blue) of each class.
      title: names the network and the pictures.
      subtitle: names the weights.

    Returns:
      The path of the page.

    Raises:
      UserError: the page cannot be written.
    """
    return write_index(folder, to_html(result, images, labels, colours, title, subtitle))


def to_html(result: SegmentationResult, images, labels, colours, title: str, subtitle: str) -> str:
    """Returns the text of the page; the arguments are those of `write`."""
    scores = [
        of_picture(*pair, len(colours)) for pair in zip(labels, result.predictions, strict=True)
    ]
    worst, sample = choose(scores)
    shown = [
        _picture(i, images, labels, result.predictions, colours, scores[i]) for i in worst + sample
    ]
    confusion = result.confusion
    frequent = frequent_confusions(confusion, FREQUENT)
    with_matrix = len(confusion) <= MOST_CLASSES
    return render(
        "segmentation.html",
        title=title,
        subtitle=subtitle,
        names=result.class_names,
        result=result,
        number_of_pictures=len(images),
        worst=shown[: len(worst)],
        sample=shown[len(worst) :],
        side=min(SIDE, max(96, images.shape[1])),
        pixelated=images.shape[1] < SIDE,
        legend=list(zip(result.class_names, map(_css, colours), strict=True)),
        classes=_class_rows(result, colours),
        matrix=tables.matrix(confusion) if with_matrix else None,
        frequent=[tables.cell(confusion, i, j) for i, j in frequent],
    )


def of_picture(
    label: np.ndarray, prediction: np.ndarray, classes: int
) -> tuple[float, float] | None:
    """(mean IoU over the classes that occur, pixel accuracy) of one picture; None if all of it is void."""
    counted = label != masks.VOID
    if not counted.any():
        return None
    cells = label[counted].astype(int) * classes + prediction[counted]
    confusion = np.bincount(cells, minlength=classes**2).reshape(classes, classes)
    result = SegmentationResult(0.0, confusion, tuple(map(str, range(classes))))
    return result.mean_iou, result.accuracy


def choose(scores: list) -> tuple[list[int], list[int]]:
    """(the pictures with the lowest mean IoU, the lowest first; some of the others, from low to high)."""
    order = [
        i
        for i in np.argsort([s[0] if s else 2 for s in scores], kind="stable").tolist()
        if scores[i]
    ]
    worst, rest = order[:WORST], order[WORST:]
    places = np.unique(np.linspace(0, len(rest) - 1, SAMPLE).round().astype(int)) if rest else []
    return worst, [rest[place] for place in places]


def _picture(i: int, images, labels, predictions, colours, score) -> Picture:
    side = min(SIDE, images.shape[1])
    gap = np.full((side, max(1, side // 32), 3), 255, np.uint8)
    shrunken = [shrunk(images[i], side)]
    for mask in (labels[i], predictions[i]):
        shrunken += [gap, masks.coloured(masks.square(mask, side), colours)]
    return Picture(i, data_uri(np.concatenate(shrunken, axis=1), exact=True), *score)


def _class_rows(result: SegmentationResult, colours) -> list[ClassRow]:
    """The classes, that with the lowest IoU first and those that do not occur last."""
    rows = []
    total = result.count
    for i, (name, iou) in enumerate(result.iou_per_class.items()):
        share = int(result.confusion[i].sum()) / total
        mistaken_for = tables.mistaken_for(result.confusion, i)
        rows.append(ClassRow(name, _css(colours[i]), share, iou, mistaken_for))
    return sorted(rows, key=lambda row: (row.iou is None, row.iou or 0))


def _css(colour) -> str:
    return f"rgb({', '.join(map(str, colour))})"
