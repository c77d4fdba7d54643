"""Max pooling with a fast gradient on every platform.

XLA's own gradient, select-and-scatter, is slow: on a CPU 5 to 13 times slower than that of slices, and on an
H100 it took 12 % of the time of the speedrun. On the CPU, this file pools with our own kernel (`cpu_kernels`)
or, without it, with slices. Other platforms note in the forward pass which place of each window won. Results
are the same.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cifar_jax.ops import cpu_kernels

# `_by_places` writes out all places of a window.
LARGEST_WINDOW = 5


def max_pool(x: jax.Array, window: int, stride: int, padding: int) -> jax.Array:
    """Maximum over square windows of [batch, height, width, channel], padded with minus infinity.

    Of equal values, the first in a window gets the gradient. NaN counts as the largest value.
    """
    if window < 16 and cpu_kernels.available(x):
        return cpu_kernels.max_pool(x, window, stride, padding)
    if cpu_kernels.on_cpu():
        return _by_slices(x, window, stride, padding)
    if window <= LARGEST_WINDOW:
        return _by_places(x, x.shape, window, stride, padding)
    return _native(x, window, stride, padding)


def _by_slices(x, window, stride, padding):
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    x = jnp.pad(x, sides, constant_values=-jnp.inf)
    rows, columns = (size - window + 1 for size in x.shape[1:3])
    largest = None
    for i in range(window):
        for j in range(window):
            values = x[:, i : i + rows : stride, j : j + columns : stride]
            if largest is None:
                largest = values
            else:
                largest = jnp.where((values > largest) | jnp.isnan(values), values, largest)
    return largest


def _native(x, window, stride, padding):
    sides = ((padding, padding), (padding, padding))
    return nn.max_pool(x, (window, window), (stride, stride), sides)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _by_places(x, shape, window, stride, padding):
    """XLA's pooling, with a gradient that compares numbers of places."""
    del shape
    return _native(x, window, stride, padding)


def _by_places_forward(x, shape, window, stride, padding):
    height, width = ((size + 2 * padding - window) // stride + 1 for size in shape[1:3])
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(x, sides, constant_values=-jnp.inf)
    largest = place = None
    for number, (i, j) in enumerate(np.ndindex(window, window)):
        rows, columns = (
            slice(start, start + stride * (count - 1) + 1, stride)
            for start, count in ((i, height), (j, width))
        )
        values = padded[:, rows, columns]
        if largest is None:
            largest, place = values, jnp.zeros(values.shape, jnp.uint8)
        else:
            wins = (values > largest) | jnp.isnan(values)
            largest = jnp.where(wins, values, largest)
            place = jnp.where(wins, np.uint8(number), place)
    return largest, place


def _by_places_backward(shape, window, stride, padding, place, grad):
    # Each place of the windows gives its gradients to every stride-th pixel; where windows do not overlap, to
    # others than the other places.
    total = jnp.zeros((), grad.dtype)
    for number, (i, j) in enumerate(np.ndindex(window, window)):
        part = jnp.where(place == np.uint8(number), grad, jnp.zeros((), grad.dtype))
        spread = [(0, 0, 0)]
        for start, size, count in ((i, shape[1], place.shape[1]), (j, shape[2], place.shape[2])):
            before = start - padding
            spread.append((before, size - before - (stride * (count - 1) + 1), stride - 1))
        total += lax.pad(part, jnp.zeros((), grad.dtype), [*spread, (0, 0, 0)])
    return (total,)


_by_places.defvjp(_by_places_forward, _by_places_backward)
