"""What an evaluation found: `Result` of classification, `SegmentationResult` of segmentation."""

import dataclasses
from typing import ClassVar

import numpy as np

from cifar_jax.inference.calibration import Calibration


@dataclasses.dataclass(frozen=True)
class _Figures:
    """What both results have: figures that follow from the loss and a confusion matrix.

    A subclass says what the matrix counts (`unit`) and what it reports of each class (`per_class`).

    Attributes:
      loss: mean cross-entropy, in nats.
      confusion: int [C, C], rows are the true class, columns the predicted one.
      class_names: C names.
      views: the views over which logits were averaged, a key of augment.VIEWS.
      augmented: the result with test-time augmentation, if the config asks for it.
    """

    loss: float
    confusion: np.ndarray
    class_names: tuple[str, ...]
    views: str = dataclasses.field(default="none", kw_only=True)
    augmented: "Result | SegmentationResult | None" = dataclasses.field(default=None, kw_only=True)

    unit: ClassVar[str]
    per_class: ClassVar[str]

    @property
    def scores(self) -> dict[str, float]:
        """The figures of a history's entry; the last one decides which epoch is best."""
        return {"loss": self.loss, "accuracy": self.accuracy}

    @property
    def count(self) -> int:
        """The number of images; in segmentation, of pixels with a class."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """The share of these that are classified correctly."""
        return int(np.trace(self.confusion)) / self.count

    def to_dict(self) -> dict:
        """The result as JSON values, for `report.json` and `--json`."""
        result = {
            **self.scores,
            self.unit: self.count,
            self.per_class: getattr(self, self.per_class),
            "confusion_matrix": self.confusion.tolist(),
            **self._more(),
        }
        if self.augmented:
            views = {"views": self.augmented.views}
            result["test_time_augmentation"] = views | self.augmented.scores
        return result

    def _more(self) -> dict:
        """What `to_dict` has beside the figures."""
        return {}

    def _notes(self) -> list[str]:
        """What `to_text` says before the classes."""
        return []

    def to_line(self) -> str:
        """Accuracy, loss and the kind of evaluation, as a line for people."""
        words = f"accuracy {self.accuracy:.2%} of {self.count:,} {self.unit}, loss {self.loss:.4f}"
        with_views = f", with test-time augmentation ({self.views})"
        return words + (with_views if self.views != "none" else "")

    def to_text(self) -> str:
        """Loss and accuracy, then a line for each class, as text for people."""
        width = max(map(len, self.class_names))
        lines = [each.to_line() for each in (self, self.augmented) if each] + self._notes()
        for name, share in getattr(self, self.per_class).items():
            lines.append(f"  {name:{width}}  {'-' if share is None else f'{share:7.2%}'}")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Result(_Figures):
    """The result of evaluating one split of a classification set.

    Attributes:
      probabilities: float32 [N, C], the probabilities of each image, if they were kept.
      calibration: the calibration of these probabilities.
    """

    probabilities: np.ndarray | None = None
    calibration: Calibration | None = None

    unit = "images"
    per_class = "accuracy_per_class"

    @property
    def accuracy_per_class(self) -> dict[str, float | None]:
        """The share of each class's images that are classified correctly; None without images."""
        return {
            name: int(row[i]) / int(row.sum()) if row.sum() else None
            for i, (name, row) in enumerate(zip(self.class_names, self.confusion, strict=True))
        }

    def _more(self) -> dict:
        return {"calibration": self.calibration.to_dict()} if self.calibration else {}

    def _notes(self) -> list[str]:
        error = self.calibration and self.calibration.expected_error
        return [] if error is None else [f"expected calibration error {error:.2%}"]


@dataclasses.dataclass(frozen=True)
class SegmentationResult(_Figures):
    """The result of evaluating one split pixel by pixel. Void pixels count nowhere.

    Attributes:
      predictions: uint8 [N, size, size], the predicted classes, if they were kept.
    """

    predictions: np.ndarray | None = None

    unit = "pixels"
    per_class = "iou_per_class"

    @property
    def scores(self) -> dict[str, float]:
        return super().scores | {"mean_iou": self.mean_iou}

    @property
    def iou_per_class(self) -> dict[str, float | None]:
        """Intersection over union: right pixels / pixels that are, or are taken for, the class.

        None for a class that no pixel is or is taken for.
        """
        right = np.diag(self.confusion).tolist()
        true, predicted = self.confusion.sum(1).tolist(), self.confusion.sum(0).tolist()
        unions = [t + p - r for t, p, r in zip(true, predicted, right, strict=True)]
        return {
            name: r / union if union else None
            for name, r, union in zip(self.class_names, right, unions, strict=True)
        }

    @property
    def mean_iou(self) -> float:
        """The mean of `iou_per_class` over the classes that occur (Everingham et al., 2010, section 4.4)."""
        found = [iou for iou in self.iou_per_class.values() if iou is not None]
        return sum(found) / len(found)

    def to_line(self) -> str:
        return f"mean IoU {self.mean_iou:.2%}, {super().to_line()}"
