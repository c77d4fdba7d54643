"""Activation functions, by the names that configs use."""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cifar_jax.models.layers.precision import at_least_float32
from cifar_jax.ops import cpu_kernels


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0). Its gradient needs only the result, which the next layer keeps anyway, not x."""
    return jnp.maximum(x, 0)


def _relu_forward(x):
    y = relu(x)
    return y, y


def _relu_backward(y, grad):
    # XLA would compute y > 0 from x: the maximum of x and 0 is above 0 where x is.
    return (jnp.where(y == 0, 0, grad),)


relu.defvjp(_relu_forward, _relu_backward)


def gelu(x: jax.Array) -> jax.Array:
    """x Φ(x), with the normal distribution's Φ itself (erf), as PyTorch's default."""
    # A GPU reads and writes less if the gradient computes Φ(x) again than if it is kept.
    return nn.gelu(x, approximate=False) if cpu_kernels.on_cpu() else _gelu_of_inputs(x)


@jax.custom_vjp
def _gelu_of_inputs(x):
    """gelu, whose gradient, grad * (Φ(x) + x φ(x)), needs only x."""
    return nn.gelu(x, approximate=False)


def _gelu_forward(x):
    return _gelu_of_inputs(x), x


def _gelu_backward(x, grad):
    x = at_least_float32(x)
    distribution = 0.5 * (1.0 + lax.erf(x * math.sqrt(0.5)))
    density = jnp.exp(-0.5 * jnp.square(x)) / math.sqrt(2.0 * math.pi)
    return ((grad * (distribution + x * density)).astype(grad.dtype),)


_gelu_of_inputs.defvjp(_gelu_forward, _gelu_backward)

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": relu,
    "leaky_relu": functools.partial(nn.leaky_relu, negative_slope=0.01),
    "selu": nn.selu,
    "gelu": gelu,
    "silu": nn.silu,
}
