"""2-D convolution, padded as in PyTorch."""

from collections.abc import Callable

import flax.linen as nn
import jax

from cifar_jax.errors import UserError
from cifar_jax.ops import conv_general_dilated


class Conv(nn.Conv):
    """2-D convolution of [batch, height, width, channel], padded as by torch.nn.Conv2d.

    `padding` is the number of zero pixels on each of the four sides. (Flax's "SAME", with stride 2 and an
    even size, pads only on the right and at the bottom, which shifts the image.) Raises UserError if the
    window is larger than the padded image.
    """

    padding: int = 0
    conv_general_dilated: Callable | None = conv_general_dilated

    def __call__(self, x: jax.Array) -> jax.Array:
        check_window_fits(x, self.kernel_size, self.padding)
        return super().__call__(x)


def check_window_fits(x: jax.Array, window: tuple[int, int], padding: int) -> None:
    """Raises UserError if the window is larger than the padded images x [batch, height, width, channel]."""
    height, width = x.shape[1:3]
    if height + 2 * padding < window[0] or width + 2 * padding < window[1]:
        raise UserError(
            f"the images are too small for this network: a window of {window[0]}x{window[1]} "
            f"does not fit the {height}x{width} pixels that are left; use larger images "
            "(dataset.image_size) or another model"
        )
