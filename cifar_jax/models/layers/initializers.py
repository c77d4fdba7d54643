"""Initialisers of kernels and biases.

Kernels are [height, width, in, out] or [in, out]. Biases are zero unless a network says otherwise.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
lecun_normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
# U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for kernels (its biases: `uniform_bias`).
torch_uniform = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


def uniform_of_deviation(deviation: float) -> Callable:
    """The initialiser U(-a, a) whose standard deviation, a / sqrt(3), is `deviation`."""
    bound = math.sqrt(3.0) * deviation

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def dirac(key: jax.Array, shape: tuple, dtype=jnp.float32) -> jax.Array:
    """Kernels [height, width, in, out] of odd size whose first `in` filters pass on one channel each.

    The other filters are `torch_uniform`.
    """
    height, width, inputs, outputs = shape
    count = min(inputs, outputs)
    identity = jnp.zeros((height, width, inputs, count), dtype)
    identity = identity.at[height // 2, width // 2, :count].set(jnp.eye(count, dtype=dtype))
    return torch_uniform(key, shape, dtype).at[..., :count].set(identity)


def uniform_bias(fan_in: int) -> Callable:
    """PyTorch's default for the bias of a layer with `fan_in` inputs per output."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
