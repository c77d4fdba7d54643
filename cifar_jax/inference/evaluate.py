"""Exact evaluation: every image counts once; accuracy per class, confusion matrix, calibration.

The result of a segmentation network is a `SegmentationResult`.
"""

import dataclasses

import jax
import numpy as np
from ml_collections import ConfigDict

from cifar_jax import steps
from cifar_jax.inference.calibration import calibrate
from cifar_jax.inference.results import Result, SegmentationResult
from cifar_jax.inference.weights import Weights
from cifar_jax.models import create_model
from cifar_jax.runtime import parallel

AnyResult = Result | SegmentationResult


def evaluate(eval_sums, variables, data, class_names) -> AnyResult:
    """Evaluates a split.

    Args:
      eval_sums: the mapped function of `steps.eval_sums`.
      variables: replicated {"params", "batch_stats"}.
      data: (images uint8 [N, height, width, 3], labels), placed on every device.
      class_names: C names.
    """
    loss, confusion, kept = parallel.unreplicate(eval_sums(variables, data))
    mean, names = float(loss) / int(confusion.sum()), tuple(class_names)
    if data[1].ndim == 3:  # masks
        return SegmentationResult(mean, confusion, names, predictions=kept)
    result = Result(mean, confusion, names)
    if kept is None:
        return result
    probabilities = np.asarray(jax.nn.softmax(kept))
    calibration = calibrate(probabilities, np.asarray(data[1]))
    return dataclasses.replace(result, probabilities=probabilities, calibration=calibration)


def with_test_time_augmentation(result: AnyResult, task: steps.Task, variables, data) -> AnyResult:
    """Adds the result with test-time augmentation, if config.test_time_augmentation asks for it."""
    views = task.config.test_time_augmentation
    if views == "none":
        return result
    augmented = evaluate(steps.eval_sums(task, views), variables, data, result.class_names)
    return dataclasses.replace(result, augmented=dataclasses.replace(augmented, views=views))


def evaluate_weights(weights: Weights, split, config: ConfigDict) -> AnyResult:
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
        kind=steps.kind_of(weights.model),
    )
    variables = parallel.replicate(jax.tree.map(np.asarray, weights.variables))
    data = parallel.place((split.images, split.labels))
    eval_sums = steps.eval_sums(task, keep=True)
    result = evaluate(eval_sums, variables, data, weights.class_names)
    return with_test_time_augmentation(result, task, variables, data)
