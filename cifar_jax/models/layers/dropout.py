"""Dropout whose mask does not depend on the number of devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


class Dropout(nn.Module):
    """Sets values to zero with probability `rate` and divides the others by 1 - rate.

    The mask depends on the key "dropout" (equal on all devices) and on the example's place in the global
    batch. So any number of devices along `axis_name` draws the same mask.
    """

    rate: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if not train or self.rate == 0.0 or self.is_initializing():
            return x
        keep = keep_mask(self.make_rng("dropout"), x.shape, self.rate, self.axis_name)
        return jnp.where(keep, x / (1.0 - self.rate), jnp.zeros_like(x))


class AlphaDropout(nn.Module):
    """Dropout that keeps mean 0 and variance 1, for SELU (Klambauer et al., 2017, section 3).

    Sets values to SELU's limit at minus infinity with probability `rate`, then scales and shifts all
    values, as torch.nn.AlphaDropout. The mask is that of `Dropout`.
    """

    rate: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if not train or self.rate == 0.0 or self.is_initializing():
            return x
        keep = keep_mask(self.make_rng("dropout"), x.shape, self.rate, self.axis_name)
        limit = -1.6732632423543772 * 1.0507009873554805  # -alpha * lambda of SELU
        scale = ((1.0 - self.rate) * (1.0 + self.rate * limit**2)) ** -0.5
        shift = -scale * self.rate * limit
        return scale * jnp.where(keep, x, jnp.full_like(x, limit)) + shift


def keep_mask(key: jax.Array, shape: tuple, rate: float, axis_name: str | None) -> jax.Array:
    """Boolean [batch, ...], True with probability 1 - rate.

    Each example's mask is drawn from the key and the example's index in the global batch of all devices
    along `axis_name`, which hold equal shares of the batch, in order.
    """
    index = jnp.arange(shape[0])
    if axis_name is not None:
        index += lax.axis_index(axis_name) * shape[0]
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)
    return jax.vmap(lambda k: jax.random.bernoulli(k, 1.0 - rate, shape[1:]))(keys)
