"""The two halves of batch normalisation, with gradients that pass over the data as few times as possible.

On the CPU, our own kernels compute the sums over the batch; elsewhere XLA does. Results are the same to
rounding.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from cifar_jax.ops import cpu_kernels


def _sums(kernel, terms, *arrays):
    """The sums over all axes but the last of the two arrays that `terms` makes: two arrays [channel].

    The CPU kernel computes them if it is available.
    """
    if cpu_kernels.available(*arrays):
        first, second = kernel(*arrays)
        return first, second
    first, second = terms(*arrays)
    axes = tuple(range(first.ndim - 1))
    if cpu_kernels.on_cpu():
        return jnp.sum(first, axes), jnp.sum(second, axes)
    # One reduction of two operands: a GPU reads the data once for both, in half as many kernels.
    zero = jnp.zeros((), first.dtype)
    add = lambda a, b: (a[0] + b[0], a[1] + b[1])  # noqa: E731
    reduce = lambda pair, axes: lax.reduce(pair, (zero, zero), add, axes)  # noqa: E731
    values, channels = first.size // first.shape[-1], first.shape[-1]
    groups = _groups(values)
    grouped = (groups, values // groups, channels)
    return reduce(reduce((first.reshape(grouped), second.reshape(grouped)), (1,)), (0,))


def _groups(values: int) -> int:
    """How many sums of groups are made of `values` values per channel, before they are added up.

    XLA itself makes about sqrt(values) on a GPU. With twice as many, it computes the terms again where
    they are summed; with fewer, it stores some of them, such as what the gradient compares.
    """
    return max(groups for groups in range(1, 2 * math.isqrt(values) + 1) if values % groups == 0)


@jax.custom_vjp
def moments(x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The means of x - shift and of its square, for x [..., channel]: two arrays [channel].

    `shift` [channel] has no gradient.
    """

    def terms(x, shift):
        return x - shift, jnp.square(x - shift)

    count = x.size // x.shape[-1]
    first, second = _sums(cpu_kernels.channel_moments, terms, x, shift)
    return first / count, second / count


def _moments_forward(x, shift):
    return moments(x, shift), (x, shift)


def _moments_backward(residuals, grad):
    x, shift = residuals
    first, second = (each / (x.size // x.shape[-1]) for each in grad)
    return first + 2.0 * second * (x - shift), jnp.zeros_like(shift)


moments.defvjp(_moments_forward, _moments_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def normalize(x, mean, scale, bias, low, high):
    """clip((x - mean) * scale + bias, low, high), for x [..., channel] and the others [channel].

    The gradient of clipped values is zero, and so is that of values at the bounds.
    """
    y = (x - mean) * scale + bias
    if low > -jnp.inf:
        y = jnp.maximum(y, low)
    return y if high == jnp.inf else jnp.minimum(y, high)


def _normalize_forward(x, mean, scale, bias, low, high):
    return normalize(x, mean, scale, bias, low, high), (x, mean, scale, bias)


def _normalize_backward(low, high, residuals, grad):
    x, mean, scale, bias = residuals

    def terms(grad, x, mean, scale, bias):
        y = (x - mean) * scale + bias
        if low > -jnp.inf:
            grad = jnp.where(y > low, grad, 0)
        if high < jnp.inf:
            grad = jnp.where(y < high, grad, 0)
        return grad, grad * (x - mean)

    kernel = functools.partial(cpu_kernels.normalize_grad_sums, low=low, high=high)
    total, product = _sums(kernel, terms, grad, *residuals)
    # Not y > low and y < high again: XLA would store what the sums compared, and read it here.
    y = (x - mean) * scale + bias
    if low > -jnp.inf:
        grad = jnp.where(y <= low, 0, grad)
    if high < jnp.inf:
        grad = jnp.where(y >= high, 0, grad)
    return grad * scale, -total * scale, product, total


normalize.defvjp(_normalize_forward, _normalize_backward)
