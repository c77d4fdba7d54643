"""Initialisers of kernels and biases: init(key, shape, dtype) -> the initial values.

Kernels are [height, width, in, out] or [in, out]. Biases are zero unless a network says otherwise.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax.models.layers.draws import draw_normal, draw_uniform


def normal(deviation: float) -> Callable:
    """The initialiser N(0, deviation^2)."""
    return _normal(lambda shape: np.float32(deviation))


def uniform_of_deviation(deviation: float) -> Callable:
    """The initialiser U(-a, a) whose standard deviation, a / sqrt(3), is `deviation`."""
    return _uniform(math.sqrt(3.0) * deviation)


def uniform_bias(fan_in: int) -> Callable:
    """PyTorch's default for the bias of a layer with `fan_in` inputs per output."""
    return _uniform(1.0 / math.sqrt(fan_in))


def torch_uniform(key: jax.Array, shape: tuple, dtype=jnp.float32) -> jax.Array:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for kernels (its biases: `uniform_bias`)."""
    return draw_uniform(key, shape, 1.0, dtype, lambda x: x * _torch_bound(shape))


def dirac(key: jax.Array, shape: tuple, dtype=jnp.float32) -> jax.Array:
    """Kernels [height, width, in, out] of odd size whose first `in` filters pass on one channel each.

    The other filters are `torch_uniform`.
    """
    height, width, inputs, outputs = shape
    count = min(inputs, outputs)
    identity = jnp.zeros((height, width, inputs, count), dtype)
    identity = identity.at[height // 2, width // 2, :count].set(jnp.eye(count, dtype=dtype))

    def replaced(x):
        return (x * _torch_bound(shape)).at[..., :count].set(identity)

    return draw_uniform(key, shape, 1.0, dtype, replaced)


def _fan_in(shape: tuple) -> int:
    return math.prod(shape[:-1])


def _fan_out(shape: tuple) -> int:
    return math.prod(shape[:-2]) * shape[-1]


def _torch_bound(shape: tuple) -> np.float32:
    # Rounded as in JAX's variance_scaling.
    return np.sqrt(3 * np.float32(1 / 3 / _fan_in(shape)))


def _normal(deviation: Callable[[tuple], np.float32]) -> Callable:
    def init(key, shape, dtype=jnp.float32):
        return draw_normal(key, shape, deviation(shape), dtype)

    return init


def _uniform(bound: float) -> Callable:
    def init(key, shape, dtype=jnp.float32):
        return draw_uniform(key, shape, bound, dtype)

    return init


he_normal = _normal(lambda shape: np.sqrt(np.float32(2 / _fan_in(shape))))
he_normal_fan_out = _normal(lambda shape: np.sqrt(np.float32(2 / _fan_out(shape))))
lecun_normal = _normal(lambda shape: np.sqrt(np.float32(1 / _fan_in(shape))))
