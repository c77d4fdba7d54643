"""Learning-rate schedules and the Optax chain, both from the config.

Schedules are functions of the step; the config speaks in epochs. Muon is in `muon.py`.
"""

import collections
import functools

import jax
import jax.numpy as jnp
import optax

from cifar_jax import models
from cifar_jax.errors import UserError
from cifar_jax.steps import muon

# Steps are counted in int32.
MAX_STEPS = 2**31 - 1

BACKBONE = "backbone"
SGD, MUON = "sgd", "muon"


def learning_rate_schedule(config, num_epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate as a function of the step.

    Args:
      config: config.lr_schedule.
      num_epochs: the length of the whole run.
      steps_per_epoch: optimizer steps in an epoch.

    Raises:
      UserError: the run has more steps than are counted.
    """
    peak = config.learning_rate
    total = num_epochs * steps_per_epoch
    if total > MAX_STEPS:
        raise UserError(
            f"num_epochs {num_epochs} makes {total:,} steps of training, but at most "
            f"{MAX_STEPS:,} are counted: num_epochs may be up to {MAX_STEPS // steps_per_epoch}"
        )
    warmup = round(config.warmup_epochs * steps_per_epoch)
    end = peak * config.final_fraction
    decay_steps = max(total - warmup, 1)
    if config.name == "step":
        # Boundaries count from the start of the run, warm-up included. Two in one step both count.
        drops = collections.Counter(round(epoch * steps_per_epoch) for epoch in config.boundaries)
        after = optax.piecewise_constant_schedule(
            peak, {step - warmup: config.factor**count for step, count in drops.items()}
        )
    elif config.name == "constant":
        after = optax.constant_schedule(peak)
    elif config.name in ("cosine", "one_cycle"):
        # One-cycle (Smith and Topin, 2018) with cosine annealing differs from cosine in its rise:
        # it starts at 1/25 of the peak, and rises along a cosine too.
        after = optax.cosine_decay_schedule(peak, decay_steps, alpha=config.final_fraction)
    elif config.name == "linear":
        after = optax.linear_schedule(peak, end, decay_steps)
    else:
        raise ValueError(f"lr_schedule.name {config.name!r}")
    if not warmup:
        return after
    if config.name == "one_cycle":
        falling = optax.cosine_decay_schedule(peak - peak / 25, warmup)
        rise = lambda step: peak - falling(step)  # noqa: E731
    else:
        rise = optax.linear_schedule(0.0, peak, warmup)
    return optax.join_schedules([rise, after], [warmup])


def create_optimizer(
    config,
    schedule: optax.Schedule,
    backbone_factor: float = 1.0,
    frozen_steps: int = 0,
    dtype: str = "float32",
) -> optax.GradientTransformation:
    """Clipping, weight decay, momentum and the schedule, in PyTorch's order.

    The backbone is every parameter outside of the module `models.HEAD`. While it is frozen, its
    gradient counts as zero in the clipped norm, nothing decays it, and its momentum and moments are
    those before a first step.

    With Muon, convolution kernels are orthogonalised (`muon.py`) and kept at a norm of their own, without
    weight decay; all else is SGD.

    Args:
      config: config.optimizer.
      schedule: the learning rate as a function of the step.
      backbone_factor: the backbone's learning rate as a share of the head's.
      frozen_steps: how many steps leave the backbone as it is.
      dtype: that of Muon's matrix products.
    """

    def decay_mask(params):
        # Biases and the parameters of normalisation are vectors; kernels are not.
        return jax.tree.map(lambda p: config.decay_bias_and_norm or jnp.ndim(p) > 1, params)

    decay = optax.add_decayed_weights(config.weight_decay, mask=decay_mask)
    frozen_at_first = functools.partial(
        optax.conditionally_mask, should_transform_fn=lambda step: step >= frozen_steps
    )
    before, parts, after, last = [], [], [], []
    if config.clip_norm:
        if frozen_steps:
            before.append(optax.masked(frozen_at_first(optax.identity()), _is_backbone))
        before.append(optax.clip_by_global_norm(config.clip_norm))
    if config.name in (SGD, MUON):
        # Before the decay, so that this has the same rate for all.
        factors = ((config.bias_lr_factor, _is_vector), (config.head_lr_factor, _is_head_kernel))
        parts += [
            optax.masked(optax.scale(factor), mask) for factor, mask in factors if factor != 1.0
        ]
        parts.append(decay)
        if config.momentum:
            parts.append(optax.trace(config.momentum, config.nesterov))
        if config.name == MUON:
            kernels = [muon.orthogonalize(config.newton_schulz_steps, dtype)]
            if config.muon_momentum:
                kernels.insert(0, optax.trace(config.muon_momentum, config.nesterov))
            both = {MUON: optax.chain(*kernels), SGD: optax.chain(*parts)}
            parts = [optax.partition(both, _kinds)]
            last = [optax.masked(muon.keep_norms(), _is_conv_kernel)]
    else:
        adam = optax.scale_by_adam(config.beta1, config.beta2, config.epsilon)
        # AdamW decays the weights themselves; Adam, as in PyTorch, adds the decay to the gradient.
        parts.extend([adam, decay] if config.name == "adamw" else [decay, adam])
    if frozen_steps:
        both = optax.chain(*parts)
        parts = [optax.partition({BACKBONE: frozen_at_first(both), models.HEAD: both}, _parts)]
        last = [optax.conditionally_transform(x, lambda step: step >= frozen_steps) for x in last]
    if backbone_factor != 1.0:
        after.append(optax.masked(optax.scale(backbone_factor), _is_backbone))
    return optax.chain(*before, *parts, *after, optax.scale_by_learning_rate(schedule), *last)


def _parts(params):
    """The tree of `params` with the name of the part that each belongs to."""

    def part(path, _):
        return models.HEAD if path[0].key == models.HEAD else BACKBONE

    return jax.tree_util.tree_map_with_path(part, params)


def _kinds(params):
    return jax.tree.map(lambda is_kernel: MUON if is_kernel else SGD, _is_conv_kernel(params))


def _is_conv_kernel(params):
    return jax.tree.map(lambda p: jnp.ndim(p) == 4, params)


def _is_vector(params):
    # Biases and the parameters of normalisation.
    return jax.tree.map(lambda p: jnp.ndim(p) <= 1, params)


def _is_head_kernel(params):
    is_head = lambda part, p: part == models.HEAD and jnp.ndim(p) > 1  # noqa: E731
    return jax.tree.map(is_head, _parts(params), params)


def _is_backbone(params):
    return jax.tree.map(lambda part: part == BACKBONE, _parts(params))
