"""Exact evaluation: every image counts once; accuracy per class, confusion matrix, calibration."""

import dataclasses

import jax
import numpy as np
from ml_collections import ConfigDict

from cifar_jax import steps
from cifar_jax.inference.calibration import Calibration, calibrate
from cifar_jax.inference.weights import Weights
from cifar_jax.models import create_model
from cifar_jax.runtime import parallel


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
            result["test_time_augmentation"] = {
                "views": self.augmented.views,
                "loss": self.augmented.loss,
                "accuracy": self.augmented.accuracy,
            }
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


def evaluate(eval_sums, variables, data, class_names) -> Result:
    """Evaluates a split.

    Args:
      eval_sums: the mapped function of `steps.eval_sums`.
      variables: replicated {"params", "batch_stats"}.
      data: (images uint8 [N, height, width, 3], labels int32 [N]), placed on every device.
      class_names: C names.
    """
    loss, confusion, logits = parallel.unreplicate(eval_sums(variables, data))
    result = Result(float(loss) / int(confusion.sum()), confusion, tuple(class_names))
    if logits is None:
        return result
    probabilities = np.asarray(jax.nn.softmax(logits))
    calibration = calibrate(probabilities, np.asarray(data[1]))
    return dataclasses.replace(result, probabilities=probabilities, calibration=calibration)


def with_test_time_augmentation(result: Result, task: steps.Task, variables, data) -> Result:
    """Adds the result with test-time augmentation, if config.test_time_augmentation asks for it."""
    views = task.config.test_time_augmentation
    if views == "none":
        return result
    augmented = evaluate(steps.eval_sums(task, views), variables, data, result.class_names)
    return dataclasses.replace(result, augmented=dataclasses.replace(augmented, views=views))


def evaluate_weights(weights: Weights, split, config: ConfigDict) -> Result:
    """Evaluates weights on a `datasets.Split`, config.eval_batch_size images at a time.

    The result has probabilities, and test-time augmentation if the config asks for it.
    """
    task = steps.Task(
        model=create_model(num_classes=len(weights.class_names), **weights.model),
        optimizer=None,
        config=config,
        num_classes=len(weights.class_names),
        mean=weights.mean,
        std=weights.std,
        image_size=weights.image_size,
    )
    variables = parallel.replicate(jax.tree.map(np.asarray, weights.variables))
    data = parallel.place((split.images, split.labels))
    eval_sums = steps.eval_sums(task, keep_logits=True)
    result = evaluate(eval_sums, variables, data, weights.class_names)
    return with_test_time_augmentation(result, task, variables, data)
