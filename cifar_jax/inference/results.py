"""What an evaluation found: `Result` of classification, `SegmentationResult` of segmentation."""

import dataclasses

import numpy as np

from cifar_jax.inference.calibration import Calibration


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of evaluating one split.

    Attributes:
      loss: mean cross-entropy over the images, in nats.
      confusion: int [C, C], rows are the true class, columns the predicted one.
      class_names: C names.
      probabilities: float32 [N, C], the probabilities of each image, if they were kept.
      calibration: the calibration of these probabilities.
      views: the views over which logits were averaged, a key of augment.VIEWS.
      augmented: the result with test-time augmentation, if the config asks for it.
    """

    loss: float
    confusion: np.ndarray
    class_names: tuple[str, ...]
    probabilities: np.ndarray | None = None
    calibration: Calibration | None = None
    views: str = "none"
    augmented: "Result | None" = None

    @property
    def scores(self) -> dict[str, float]:
        """The figures of a history's entry; the last one decides which epoch is best."""
        return {"loss": self.loss, "accuracy": self.accuracy}

    @property
    def count(self) -> int:
        """The number of images."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """The share of images that are classified correctly."""
        return int(np.trace(self.confusion)) / self.count

    @property
    def accuracy_per_class(self) -> dict[str, float | None]:
        """The share of each class's images that are classified correctly; None without images."""
        return {
            name: int(row[i]) / int(row.sum()) if row.sum() else None
            for i, (name, row) in enumerate(zip(self.class_names, self.confusion, strict=True))
        }

    def to_dict(self) -> dict:
        """The result as JSON values, for `report.json` and `--json`."""
        result = {
            "loss": self.loss,
            "accuracy": self.accuracy,
            "images": self.count,
            "accuracy_per_class": self.accuracy_per_class,
            "confusion_matrix": self.confusion.tolist(),
        }
        if self.calibration:
            result["calibration"] = self.calibration.to_dict()
        if self.augmented:
            views = {"views": self.augmented.views}
            result["test_time_augmentation"] = views | self.augmented.scores
        return result

    def to_line(self) -> str:
        """Accuracy, loss and the kind of evaluation, as a line for people."""
        words = f"accuracy {self.accuracy:.2%} of {self.count:,} images, loss {self.loss:.4f}"
        with_views = f", with test-time augmentation ({self.views})"
        return words + (with_views if self.views != "none" else "")

    def to_text(self) -> str:
        """Loss and accuracy, then a line for each class, as text for people."""
        width = max(map(len, self.class_names))
        lines = [self.to_line()]
        if self.augmented:
            lines.append(self.augmented.to_line())
        if self.calibration:
            error = self.calibration.expected_error
            lines.append(f"expected calibration error {error:.2%}")
        for name, accuracy in self.accuracy_per_class.items():
            lines.append(f"  {name:{width}}  {'-' if accuracy is None else f'{accuracy:7.2%}'}")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class SegmentationResult:
    """The result of evaluating one split, pixel by pixel. Void pixels count nowhere.

    Attributes:
      loss: mean cross-entropy over the pixels, in nats.
      confusion: int [C, C], pixels; rows are the true class, columns the predicted one.
      class_names: C names.
      predictions: uint8 [N, size, size], the predicted classes, if they were kept.
      views: the views over which logits were averaged, a key of augment.VIEWS.
      augmented: the result with test-time augmentation, if the config asks for it.
    """

    loss: float
    confusion: np.ndarray
    class_names: tuple[str, ...]
    predictions: np.ndarray | None = None
    views: str = "none"
    augmented: "SegmentationResult | None" = None

    @property
    def scores(self) -> dict[str, float]:
        """The figures of a history's entry; the last one decides which epoch is best."""
        return {"loss": self.loss, "accuracy": self.accuracy, "mean_iou": self.mean_iou}

    @property
    def count(self) -> int:
        """The number of pixels with a class."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """The share of pixels that are classified correctly."""
        return int(np.trace(self.confusion)) / self.count

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

    def to_dict(self) -> dict:
        """The result as JSON values, for `report.json` and `--json`."""
        result = {
            "loss": self.loss,
            "accuracy": self.accuracy,
            "mean_iou": self.mean_iou,
            "pixels": self.count,
            "iou_per_class": self.iou_per_class,
            "confusion_matrix": self.confusion.tolist(),
        }
        if self.augmented:
            views = {"views": self.augmented.views}
            result["test_time_augmentation"] = views | self.augmented.scores
        return result

    def to_line(self) -> str:
        """Mean IoU, accuracy, loss and the kind of evaluation, as a line for people."""
        words = (
            f"mean IoU {self.mean_iou:.2%}, accuracy {self.accuracy:.2%} of {self.count:,} pixels, "
            f"loss {self.loss:.4f}"
        )
        with_views = f", with test-time augmentation ({self.views})"
        return words + (with_views if self.views != "none" else "")

    def to_text(self) -> str:
        """Loss, accuracy and mean IoU, then a line for each class, as text for people."""
        width = max(map(len, self.class_names))
        lines = [self.to_line()]
        if self.augmented:
            lines.append(self.augmented.to_line())
        for name, iou in self.iou_per_class.items():
            lines.append(f"  {name:{width}}  {'-' if iou is None else f'{iou:7.2%}'}")
        return "\n".join(lines)
