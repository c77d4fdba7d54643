"""Dense layers."""

import flax.linen as nn

from cifar_jax.models.layers.initializers import torch_uniform, uniform_bias

Dense = nn.Dense


def torch_dense(features: int, fan_in: int, **kwargs) -> nn.Dense:
    """A dense layer with `fan_in` inputs, initialised as torch.nn.Linear."""
    return Dense(features, kernel_init=torch_uniform, bias_init=uniform_bias(fan_in), **kwargs)
