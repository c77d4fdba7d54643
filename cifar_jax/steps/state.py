"""TrainState: everything the future of a run depends on, apart from its config and data.

Batch order, augmentation and dropout are functions of the seed and the step. So the state alone decides
what comes next, and restoring it resumes the run exactly.
"""

from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn

from cifar_jax import models
from cifar_jax.errors import UserError


@flax.struct.dataclass
class EpochMetrics:
    """Sums over the steps of the current epoch.

    Attributes:
      loss: float32 [], sum over steps of the global batch's mean loss.
      correct: [], correctly classified examples: int32, or float32 if each is a share of an image's pixels.
      failed_step: int32 [], the first step whose loss was not finite; -1 if there was none.
    """

    loss: Any
    correct: Any
    failed_step: Any

    @classmethod
    def zero(cls, correct_dtype=jnp.int32):
        correct = jnp.zeros((), correct_dtype)
        return cls(loss=jnp.float32(0), correct=correct, failed_step=jnp.int32(-1))


@flax.struct.dataclass
class TrainState:
    """The complete state of training.

    Attributes:
      step: int32 [], optimizer steps taken.
      params: the model's parameters, float32.
      batch_stats: running statistics of batch norm; {} without batch norm.
      opt_state: the state of the optimizer.
      ema: moving average of {"params", "batch_stats"}; {} if it is off.
      metrics: sums over the current epoch.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any
    metrics: EpochMetrics


def random_keys(seed) -> dict:
    """The random keys of a run, "init", "order", "step" and "flip", from its seed (uint32 [] or int)."""
    root = jax.random.key(seed)
    return {
        name: jax.random.fold_in(root, i)
        for i, name in enumerate(("init", "order", "step", "flip"))
    }


def step_keys(seed, step) -> dict:
    """The keys "augment", "mixup" and "dropout" of one training step (int32 []), the same on every device."""
    key = jax.random.fold_in(random_keys(seed)["step"], step)
    return {
        name: jax.random.fold_in(key, i) for i, name in enumerate(("augment", "mixup", "dropout"))
    }


def init_variables(model: nn.Module, seed, image_size: int) -> dict:
    """Fresh {"params", "batch_stats"} for images [batch, image_size, image_size, 3]."""
    try:
        variables = models.initial_variables(model, random_keys(seed)["init"], image_size)
    except UserError as error:
        raise UserError(f"config: model with dataset.image_size={image_size}: {error}") from None
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def create_state(variables: dict, optimizer, ema: bool, correct_dtype=jnp.int32) -> TrainState:
    """The state before the first step, from {"params", "batch_stats"}."""
    variables = jax.tree.map(jnp.asarray, variables)
    return TrainState(
        step=jnp.int32(0),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
        ema=variables if ema else {},
        metrics=EpochMetrics.zero(correct_dtype),
    )


def inference_variables(state: TrainState) -> dict:
    """What evaluation uses: the moving average if there is one, else the weights."""
    return state.ema or {"params": state.params, "batch_stats": state.batch_stats}
