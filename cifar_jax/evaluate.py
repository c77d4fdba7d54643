"""Exact evaluation: every image counted once, accuracy per class and the confusion matrix."""

import dataclasses

import jax
import numpy as np
from ml_collections import ConfigDict

from cifar_jax import parallel, steps
from cifar_jax.models import create_model
from cifar_jax.weights import Weights


@dataclasses.dataclass(frozen=True)
class Result:
    """What evaluation of one split gave.

    Attributes:
      loss: mean cross-entropy over the images, in nats.
      confusion: int [C, C], rows are the true class, columns the predicted one.
      class_names: C names.
    """

    loss: float
    confusion: np.ndarray
    class_names: tuple[str, ...]

    @property
    def count(self) -> int:
        """Images that were counted."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """The share of all images that was predicted right."""
        return int(np.trace(self.confusion)) / self.count

    @property
    def accuracy_per_class(self) -> dict[str, float | None]:
        """For each class the share of its images that was predicted right; None without images."""
        return {
            name: int(row[i]) / int(row.sum()) if row.sum() else None
            for i, (name, row) in enumerate(zip(self.class_names, self.confusion, strict=True))
        }

    def to_dict(self) -> dict:
        """As JSON values, for `report.json` and `--json`."""
        return {
            "loss": self.loss,
            "accuracy": self.accuracy,
            "images": self.count,
            "accuracy_per_class": self.accuracy_per_class,
            "confusion_matrix": self.confusion.tolist(),
        }

    def to_text(self) -> str:
        """For people: loss and accuracy, then a line for each class."""
        width = max(map(len, self.class_names))
        lines = [f"accuracy {self.accuracy:.2%} of {self.count:,} images, loss {self.loss:.4f}"]
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
    loss, confusion = parallel.unreplicate(eval_sums(variables, data))
    return Result(float(loss) / int(confusion.sum()), confusion, tuple(class_names))


def evaluate_weights(weights: Weights, split, config: ConfigDict) -> Result:
    """Evaluates weights on a `datasets.Split`, with config.eval_batch_size images at a time."""
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
    return evaluate(steps.eval_sums(task), variables, data, weights.class_names)
