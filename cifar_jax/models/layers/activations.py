"""Activation functions, by the names that configs use."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp


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

# gelu is the exact one (with erf), as PyTorch's default.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": relu,
    "leaky_relu": functools.partial(nn.leaky_relu, negative_slope=0.01),
    "selu": nn.selu,
    "gelu": functools.partial(nn.gelu, approximate=False),
    "silu": nn.silu,
}
