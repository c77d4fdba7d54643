"""The mathematics of training: the training and evaluation steps, the state, and what they are made of.

All functions are pure. Take from here: the names below, and the modules `augment`, `optimizer`,
`schedules` and `whitening`. What classification and segmentation do differently is in the modules of
these names.
"""

from collections.abc import Mapping

from cifar_jax import models
from cifar_jax.steps.batch import epoch_order, steps_per_epoch
from cifar_jax.steps.classification import CLASSIFICATION
from cifar_jax.steps.evaluation import eval_sums
from cifar_jax.steps.kind import Kind
from cifar_jax.steps.segmentation import SEGMENTATION
from cifar_jax.steps.state import (
    EpochMetrics,
    TrainState,
    create_state,
    inference_variables,
    init_variables,
    random_keys,
    step_keys,
)
from cifar_jax.steps.task import Task
from cifar_jax.steps.training import take_steps, train_step, train_steps, training_batch

__all__ = [
    "CLASSIFICATION",
    "SEGMENTATION",
    "EpochMetrics",
    "Kind",
    "Task",
    "TrainState",
    "augment",
    "create_state",
    "epoch_order",
    "eval_sums",
    "inference_variables",
    "init_variables",
    "kind_of",
    "optimizer",
    "random_keys",
    "schedules",
    "step_keys",
    "steps_per_epoch",
    "take_steps",
    "train_step",
    "train_steps",
    "training_batch",
    "whitening",
]


def kind_of(model: Mapping) -> Kind:
    """The kind of a network with these options, as in config.model."""
    return SEGMENTATION if models.segments(model) else CLASSIFICATION
