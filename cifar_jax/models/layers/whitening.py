"""A frozen first convolution that whitens image patches."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cifar_jax.models.layers.convolution import check_window_fits
from cifar_jax.ops import conv_general_dilated


class Whitening(nn.Module):
    """A 2x2 convolution that whitens patches: [batch, height, width, c] -> [batch, height-1, width-1, 8c].

    Its kernel [2, 2, c, 8c] is computed from the training images (cifar_jax/steps/whitening.py) and never
    trained. Initially it outputs the values of a patch and their negatives. It is a statistic of the data,
    so it is kept in `batch_stats`: saved, resumed, exported and used in evaluation like running
    statistics, and hidden from the optimizer. (Its moving average is itself, to rounding.) The bias is
    trained.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        check_window_fits(x, (2, 2), 0)
        count = 4 * x.shape[-1]
        kernel = self.variable("batch_stats", "kernel", _patch_and_negative, x.shape[-1]).value
        bias = self.param("bias", nn.initializers.zeros, (2 * count,))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return conv_general_dilated(x, kernel, (1, 1), ((0, 0), (0, 0))) + bias.astype(self.dtype)


def _patch_and_negative(channels: int) -> jax.Array:
    values = jnp.eye(4 * channels).reshape(2, 2, channels, 4 * channels)
    return jnp.concatenate([values, -values], -1)
