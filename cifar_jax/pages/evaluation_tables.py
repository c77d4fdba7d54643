"""The tables of the evaluation page: the confusion matrix, confusions and classes."""

import dataclasses

import numpy as np

from cifar_jax.inference import Result


@dataclasses.dataclass(frozen=True)
class Cell:
    """The images of class i that the network predicts as class j.

    Attributes:
      i: the true class.
      j: the predicted class.
      count: the number of images, at least 1.
      share: `count` as a fraction of the images of class i.
      heat: how strong the cell's colour is, in per cent.
    """

    i: int
    j: int
    count: int
    share: float

    @property
    def heat(self) -> int:
        # Errors are few compared with the diagonal. The square root makes them visible.
        return round(80 * self.share**0.5)


@dataclasses.dataclass(frozen=True)
class ClassRow:
    """One class and how well the network knows it.

    Attributes:
      name: its name.
      count: the number of its images.
      accuracy: a fraction; None if the class has no images.
      mistaken_for: its most frequent confusion; None if it has none.
      has_images: whether the page holds images of that confusion.
    """

    name: str
    count: int
    accuracy: float | None
    mistaken_for: Cell | None
    has_images: bool


def cell(confusion: np.ndarray, i: int, j: int) -> Cell | None:
    """The cell of a matrix int [C, C]; None if it is empty."""
    count = int(confusion[i, j])
    return Cell(i, j, count, count / int(confusion[i].sum())) if count else None


def mistaken_for(confusion: np.ndarray, i: int) -> Cell | None:
    """The most frequent confusion of class i; None if it has none."""
    others = np.array(confusion[i])
    others[i] = 0
    j = int(others.argmax())
    return cell(confusion, i, j) if others[j] else None


def matrix(confusion: np.ndarray) -> list[list[Cell | None]]:
    """All cells, one row per true class."""
    classes = range(len(confusion))
    return [[cell(confusion, i, j) for j in classes] for i in classes]


def class_rows(result: Result, cells_with_images: set) -> list[ClassRow]:
    """The classes, the least accurate first and those without images last."""
    rows = []
    for i, (name, accuracy) in enumerate(result.accuracy_per_class.items()):
        count, wrong = int(result.confusion[i].sum()), mistaken_for(result.confusion, i)
        has_images = wrong is not None and (i, wrong.j) in cells_with_images
        rows.append(ClassRow(name, count, accuracy, wrong, has_images))
    return sorted(rows, key=lambda row: (row.accuracy is None, row.accuracy or 0))
