"""Chooses what the evaluation page shows: which confusions, and which images."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cifar_jax.inference import Result

# With more classes, a matrix is too large to read. The page then lists the most frequent confusions.
MOST_CLASSES = 100
FREQUENT, FREQUENT_WITHOUT_MATRIX = 10, 100
# Images per cell of the matrix, and mistakes.
MOST_OF_A_CELL = 24
MISTAKES = 24
# Images in the whole page. With 32x32 pixels each, the page stays below 7 MB.
MOST_IMAGES = 2000


@dataclasses.dataclass(frozen=True)
class Choice:
    """What the page shows. Images are indices in [0, N). Cells are (true class, predicted class).

    Attributes:
      with_matrix: whether the page shows the whole confusion matrix.
      frequent: the most frequent confusions, highest count first.
      images: for each cell that can be clicked, its images, most confident first.
      mistakes: the most confident mistakes, in that order.
      predicted: int [N], the predicted class of every image.
      confidence: float [N], the probability of that class.
    """

    with_matrix: bool
    frequent: list[tuple[int, int]]
    images: dict[tuple[int, int], list[int]]
    mistakes: list[int]
    predicted: np.ndarray
    confidence: np.ndarray

    @property
    def all_images(self) -> list[int]:
        """Every image of the page once, in ascending order."""
        return sorted({*self.mistakes, *(i for images in self.images.values() for i in images)})


def choose(result: Result, labels: np.ndarray) -> Choice:
    """Chooses for a result that has probabilities; `labels` are the true classes, int [N]."""
    # A network that overflows gives NaN, which JSON does not have.
    probabilities = np.nan_to_num(result.probabilities)
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    with_matrix = len(result.class_names) <= MOST_CLASSES
    most = FREQUENT if with_matrix else FREQUENT_WITHOUT_MATRIX
    frequent = frequent_confusions(result.confusion, most)
    filled = [(int(i), int(j)) for i, j in np.argwhere(result.confusion)]
    cells = filled if with_matrix else frequent
    images, mistakes = choose_images(labels, predicted, confidence, cells)
    return Choice(with_matrix, frequent, images, mistakes, predicted, confidence)


def frequent_confusions(confusion: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Up to `most` cells (true, predicted) off the diagonal, highest count first. None is empty."""
    wrong = np.array(confusion)
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[: min(most, np.count_nonzero(wrong))]
    return [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)]


def choose_images(
    labels: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, cells: Sequence
) -> tuple[dict[tuple[int, int], list[int]], list[int]]:
    """Chooses the most confident images of each cell, and the most confident mistakes of all.

    If that is more than MOST_IMAGES, it keeps the mistakes, then the most confident image of each cell,
    then the second of each cell, and so on.

    Args:
      labels: int [N], true classes.
      predicted: int [N], predicted classes.
      confidence: float [N], the probability of the predicted class.
      cells: (true, predicted) classes.

    Returns:
      (the images of each cell, the mistakes), as indices in [0, N), most confident first.
    """
    order = np.argsort(-confidence, kind="stable")
    mistakes = order[(labels != predicted)[order]][:MISTAKES].tolist()
    images = {cell: [] for cell in cells}
    ranked = []
    for image in order.tolist():
        of_cell = images.get((int(labels[image]), int(predicted[image])))
        if of_cell is not None and len(of_cell) < MOST_OF_A_CELL:
            ranked.append((len(of_cell), len(ranked), image))
            of_cell.append(image)
    by_rank = [image for _, _, image in sorted(ranked)]
    kept = set(list(dict.fromkeys(mistakes + by_rank))[:MOST_IMAGES])
    return {cell: [i for i in of_cell if i in kept] for cell, of_cell in images.items()}, mistakes
