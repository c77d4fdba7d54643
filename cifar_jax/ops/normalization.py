"""The two halves of batch normalisation, with gradients that pass over the data as seldom as can be.

On the CPU the sums over the batch are kernels of ours, elsewhere XLA's. Results are the same to
rounding.
"""

import functools

import jax
import jax.numpy as jnp

from cifar_jax.ops import cpu_kernels


def _sums(kernel, formula, *arrays):
    """The kernel on the CPU if there is one, the formula in all other cases."""
    if not cpu_kernels.available(*arrays):
        return formula(*arrays)
    return cpu_kernels.platform_dependent(*arrays, cpu=kernel, default=formula)


@jax.custom_vjp
def moments(x: jax.Array, shift: jax.Array) -> jax.Array:
    """[2, channel]: the means of x - shift and of its square, of x [..., channel].

    `shift` [channel] is taken as a constant.
    """

    def formula(x, shift):
        axes = tuple(range(x.ndim - 1))
        deviation = x - shift
        return jnp.stack([jnp.sum(deviation, axes), jnp.sum(jnp.square(deviation), axes)])

    return _sums(cpu_kernels.channel_moments, formula, x, shift) / (x.size // x.shape[-1])


def _moments_forward(x, shift):
    return moments(x, shift), (x, shift)


def _moments_backward(residuals, grad):
    x, shift = residuals
    first, second = grad / (x.size // x.shape[-1])
    return first + 2.0 * second * (x - shift), jnp.zeros_like(shift)


moments.defvjp(_moments_forward, _moments_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def normalize(x, mean, scale, bias, low, high):
    """clip((x - mean) * scale + bias, low, high) of x [..., channel], the others [channel].

    Where it is clipped the gradient is zero, at the very bounds too.
    """
    y = (x - mean) * scale + bias
    if low > -jnp.inf:
        y = jnp.maximum(y, low)
    return y if high == jnp.inf else jnp.minimum(y, high)


def _normalize_forward(x, mean, scale, bias, low, high):
    return normalize(x, mean, scale, bias, low, high), (x, mean, scale, bias)


def _normalize_backward(low, high, residuals, grad):
    scale = residuals[2]

    def pass_through(grad, x, mean, scale, bias):
        y = (x - mean) * scale + bias
        return jnp.where((y <= low) | (y >= high), jnp.zeros_like(grad), grad)

    def formula(grad, x, mean, scale, bias):
        axes = tuple(range(x.ndim - 1))
        passed = pass_through(grad, x, mean, scale, bias)
        return jnp.stack([jnp.sum(passed, axes), jnp.sum(passed * (x - mean), axes)])

    kernel = functools.partial(cpu_kernels.normalize_grad_sums, low=low, high=high)
    total, product = _sums(kernel, formula, grad, *residuals)
    grad_x = pass_through(grad, *residuals) * scale
    return grad_x, -total * scale, product, total


normalize.defvjp(_normalize_forward, _normalize_backward)
