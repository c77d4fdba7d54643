"""The optimizer of a run: an Optax chain made from the config."""

import functools

import jax
import jax.numpy as jnp
import optax

from cifar_jax import models
from cifar_jax.steps import muon

BACKBONE = "backbone"
SGD, MUON = "sgd", "muon"


def create_optimizer(
    config,
    schedule: optax.Schedule,
    backbone_factor: float = 1.0,
    frozen_steps: int = 0,
    dtype: str = "float32",
    whitening_schedule: optax.Schedule | None = None,
) -> optax.GradientTransformation:
    """Clipping, weight decay, momentum and the learning rate, in PyTorch's order.

    The backbone is every parameter outside the module `models.HEAD`. While it is frozen, its gradient
    counts as zero in the clipped norm, nothing decays it, and its momentum stays at its initial value.

    Args:
      config: config.optimizer.
      schedule: the learning rate as a function of the step.
      backbone_factor: the backbone's learning rate as a multiple of the head's.
      frozen_steps: for how many steps the backbone is frozen.
      dtype: type of Muon's matrix products.
      whitening_schedule: the learning rate of the whitening layer's bias; None: `schedule`.
    """
    frozen_at_first = functools.partial(
        optax.conditionally_mask, should_transform_fn=lambda step: step >= frozen_steps
    )
    update, final = OPTIMIZERS[config.name](config, dtype)
    if frozen_steps:
        both = optax.chain(*update)
        parts = {BACKBONE: frozen_at_first(both), models.HEAD: both}
        update = [optax.partition(parts, _parts)]
        final = [optax.conditionally_transform(x, lambda step: step >= frozen_steps) for x in final]
    clip = []
    if config.clip_norm:
        if frozen_steps:
            clip.append(optax.masked(frozen_at_first(optax.identity()), _is_backbone))
        clip.append(optax.clip_by_global_norm(config.clip_norm))
    slower = []
    if backbone_factor != 1.0:
        slower.append(optax.masked(optax.scale(backbone_factor), _is_backbone))
    rate = optax.scale_by_learning_rate(schedule)
    if whitening_schedule is not None:
        rates = {True: optax.scale_by_learning_rate(whitening_schedule), False: rate}
        rate = optax.partition(rates, _is_in_whitening)
    return optax.chain(*clip, *update, *slower, rate, *final)


def _sgd(config, dtype: str) -> tuple[list, list]:
    """SGD with momentum, with separate learning rates for vectors and for the head's kernel."""
    del dtype
    factors = ((config.bias_lr_factor, _is_vector), (config.head_lr_factor, _is_head_kernel))
    update = [optax.masked(optax.scale(factor), mask) for factor, mask in factors if factor != 1.0]
    update.append(_decay(config))  # after the factors, which it does not use
    if config.momentum:
        update.append(optax.trace(config.momentum, config.nesterov))
    return update, []


def _muon(config, dtype: str) -> tuple[list, list]:
    """Muon for convolution kernels, which keep a fixed norm and have no weight decay; SGD for the rest."""
    kernels = [muon.orthogonalize(config.newton_schulz_steps, dtype)]
    if config.muon_momentum:
        kernels.insert(0, optax.trace(config.muon_momentum, config.nesterov))
    others, _ = _sgd(config, dtype)
    both = {MUON: optax.chain(*kernels), SGD: optax.chain(*others)}
    return [optax.partition(both, _kinds)], [optax.masked(muon.keep_norms(), _is_conv_kernel)]


def _adam(config, dtype: str) -> tuple[list, list]:
    """Adam. Weight decay is added to the gradient, as in PyTorch."""
    del dtype
    return [_decay(config), _adam_direction(config)], []


def _adamw(config, dtype: str) -> tuple[list, list]:
    """AdamW: Adam whose weight decay is decoupled from the gradient."""
    del dtype
    return [_adam_direction(config), _decay(config)], []


# Name -> function of (config.optimizer, dtype of matrix products) that gives two lists of
# transformations: those before and those after the scaling by the learning rate.
OPTIMIZERS = {SGD: _sgd, MUON: _muon, "adam": _adam, "adamw": _adamw}


def _adam_direction(config) -> optax.GradientTransformation:
    return optax.scale_by_adam(config.beta1, config.beta2, config.epsilon)


def _decay(config) -> optax.GradientTransformation:
    def mask(params):
        return jax.tree.map(lambda p: config.decay_bias_and_norm or jnp.ndim(p) > 1, params)

    return optax.add_decayed_weights(config.weight_decay, mask=mask)


# Masks and labels: trees with one value per parameter.


def _parts(params):
    """`models.HEAD` or `BACKBONE`."""

    def part(path, _):
        return models.HEAD if path[0].key == models.HEAD else BACKBONE

    return jax.tree_util.tree_map_with_path(part, params)


def _kinds(params):
    """`MUON` or `SGD`."""
    return jax.tree.map(lambda is_kernel: MUON if is_kernel else SGD, _is_conv_kernel(params))


def _is_conv_kernel(params):
    """True for kernels of convolutions outside the head (that of segmentation networks has some)."""
    is_kernel = lambda part, p: part == BACKBONE and jnp.ndim(p) == 4  # noqa: E731
    return jax.tree.map(is_kernel, _parts(params), params)


def _is_vector(params):
    """True for biases and the parameters of normalisation."""
    return jax.tree.map(lambda p: jnp.ndim(p) <= 1, params)


def _is_head_kernel(params):
    is_head = lambda part, p: part == models.HEAD and jnp.ndim(p) > 1  # noqa: E731
    return jax.tree.map(is_head, _parts(params), params)


def _is_in_whitening(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key == models.WHITENING, params)


def _is_backbone(params):
    return jax.tree.map(lambda part: part == BACKBONE, _parts(params))
