"""Training: a run and its first state, the loop over its epochs, its report and its profile.

Take from here: `train` (the whole of it), and the names below for those who need a part.
"""

from cifar_jax.training.loop import train
from cifar_jax.training.report import best_epoch
from cifar_jax.training.run import (
    Run,
    create_run,
    first_state,
    fresh_state,
    state_shapes,
    whitening_images,
)

__all__ = [
    "Run",
    "best_epoch",
    "create_run",
    "first_state",
    "fresh_state",
    "profiling",
    "state_shapes",
    "train",
    "whitening_images",
]
