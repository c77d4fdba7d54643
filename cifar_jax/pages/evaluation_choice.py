"""Chooses what the page of an evaluation shows: which confusions, and which images."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cifar_jax.inference import Result

# With more classes, a matrix is too large to look at: the page lists the most frequent confusions instead.
MOST_CLASSES = 100
FREQUENT, FREQUENT_WITHOUT_MATRIX = 10, 100
MOST_OF_A_CELL = 24
MISTAKES = 24
# In the whole page: with 32x32 pixels each, it stays below 7 MB.
MOST_PICTURES = 2000


@dataclasses.dataclass(frozen=True)
class Choice:
    """What the page shows. Images are places in [0, N), cells are (true, predicted) classes.

    Attributes:
      with_matrix: whether the page shows the whole confusion matrix.
      frequent: the most frequent confusions, the fullest first.
      behind: the images of each cell that a click shows, the surest first.
      mistakes: the surest mistakes, the surest first.
      predicted: int [N], the predicted class of every image.
      confidence: float [N], its probability.
    """

    with_matrix: bool
    frequent: list[tuple[int, int]]
    behind: dict[tuple[int, int], list[int]]
    mistakes: list[int]
    predicted: np.ndarray
    confidence: np.ndarray

    @property
    def pictures(self) -> list[int]:
        """Every image on the page once, in the order of the split."""
        return sorted({*self.mistakes, *(p for places in self.behind.values() for p in places)})


def choose(result: Result, labels: np.ndarray) -> Choice:
    """Chooses for a result with probabilities; `labels` are the true classes, int [N]."""
    # A network that overflows gives NaN, which JSON does not have.
    probabilities = np.nan_to_num(result.probabilities)
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    with_matrix = len(result.class_names) <= MOST_CLASSES
    most = FREQUENT if with_matrix else FREQUENT_WITHOUT_MATRIX
    frequent = frequent_confusions(result.confusion, most)
    filled = [(int(i), int(j)) for i, j in np.argwhere(result.confusion)]
    cells = filled if with_matrix else frequent
    behind, mistakes = choose_pictures(labels, predicted, confidence, cells)
    return Choice(with_matrix, frequent, behind, mistakes, predicted, confidence)


def frequent_confusions(confusion: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Up to `most` cells (true, predicted) off the diagonal that hold images, the fullest first."""
    wrong = np.array(confusion)
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[: min(most, np.count_nonzero(wrong))]
    return [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)]


def choose_pictures(
    labels: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, cells: Sequence
) -> tuple[dict[tuple[int, int], list[int]], list[int]]:
    """Chooses the images of the page: the surest ones of each cell, and the surest mistakes of all.

    If these are more than MOST_PICTURES, the mistakes stay, then the surest image of each cell, then the
    second of each cell, and so on.

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
