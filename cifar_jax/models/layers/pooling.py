"""Max and average pooling."""

import jax
import jax.numpy as jnp

from cifar_jax.models.layers.convolution import check_window_fits
from cifar_jax.ops import pooling


def max_pool(x: jax.Array, window: int, stride: int, padding: int = 0) -> jax.Array:
    """Maximum over square windows of [batch, height, width, channel], as torch.nn.MaxPool2d.

    Of equal values, the first in a window gets the gradient. NaN counts as the largest value. Raises
    UserError if the window is larger than the padded image.
    """
    check_window_fits(x, (window, window), padding)
    return pooling.max_pool(x, window, stride, padding)


def global_average_pool(x: jax.Array) -> jax.Array:
    """The mean over all pixels: [batch, height, width, channel] -> [batch, channel]."""
    return jnp.mean(x, axis=(1, 2))
