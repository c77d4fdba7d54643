"""The mathematics of training: the training and evaluation steps, the state, and what they are made of.

All functions are pure. Take from here: the names below, and the modules `augment`, `optimizer`,
`schedules` and `whitening`.
"""

from cifar_jax.steps.evaluation import eval_sums
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
from cifar_jax.steps.training import (
    epoch_order,
    steps_per_epoch,
    take_steps,
    train_step,
    train_steps,
    training_batch,
)

__all__ = [
    "EpochMetrics",
    "Task",
    "TrainState",
    "augment",
    "create_state",
    "epoch_order",
    "eval_sums",
    "inference_variables",
    "init_variables",
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
