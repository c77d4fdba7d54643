"""The head of a fully convolutional network, and what it needs: padding and bilinear enlargement."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax.errors import UserError
from cifar_jax.models.layers.convolution import Conv
from cifar_jax.models.layers.precision import at_least_float32
from cifar_jax.ops import cpu_kernels


class FCNHead(nn.Module):
    """A score of each class for each pixel, from the feature maps of a backbone.

    A 1x1 convolution scores the coarsest map. The scores are enlarged to the next finer map, whose own scores
    are added, and so on down to `stride`; what is left to the size of the image is enlarged at once. Strides
    32, 16 and 8 are FCN-32s, FCN-16s and FCN-8s (Long, Shelhamer and Darrell, "Fully Convolutional Networks
    for Semantic Segmentation", 2015, section 4). Enlargement is bilinear and fixed. All scores start at
    zero, as in that paper, so a finer map begins by changing nothing.
    """

    num_classes: int
    stride: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, maps: dict[int, jax.Array], size: tuple[int, int]) -> jax.Array:
        """Logits float32 [batch, *size, num_classes].

        Args:
          maps: stride -> the feature map [batch, height / stride, width / stride, channel], for images that
            are at least as large as `size`.
          size: height and width of the logits, which are cut to it.

        Raises:
          UserError: there is no map of that stride.
        """
        if self.stride not in maps:
            has = ", ".join(map(str, sorted(maps)))
            raise UserError(
                f"fcn_stride is {self.stride}, but the feature maps have the strides {has}"
            )
        scores, reached = None, None
        for stride in sorted((s for s in maps if s >= self.stride), reverse=True):
            score = Conv(
                self.num_classes,
                (1, 1),
                kernel_init=nn.initializers.zeros,
                dtype=self.dtype,
                name=f"score_{stride}",
            )(maps[stride])
            scores = score if scores is None else upsample(scores, reached // stride) + score
            reached = stride
        logits = upsample(at_least_float32(scores), self.stride)
        # With a batch of unknown size, indexing would make a gather, which the export to ONNX does not know.
        for axis in (1, 2):
            logits = jax.lax.slice_in_dim(logits, 0, size[axis - 1], axis=axis)
        return logits


def padded(images: jax.Array, stride: int) -> jax.Array:
    """Adds zeros at the bottom and right of [batch, height, width, channel], up to multiples of `stride`."""
    height, width = (-size % stride for size in images.shape[1:3])
    if not height and not width:
        return images
    return jnp.pad(images, ((0, 0), (0, height), (0, width), (0, 0)))


def upsample(x: jax.Array, factor: int) -> jax.Array:
    """Bilinear: [batch, height, width, channel] -> [batch, factor * height, factor * width, channel].

    Positions are those of pixel centres, as in PyTorch's `interpolate(align_corners=False)`. Sums of shifted
    copies: faster than JAX's own function, and their bits do not depend on the number of cores.
    """
    if factor == 1:
        return x
    if cpu_kernels.is_portable():
        shape = (x.shape[0], factor * x.shape[1], factor * x.shape[2], x.shape[3])
        return jax.image.resize(x, shape, "bilinear", antialias=False)
    return _upsample_axis(_upsample_axis(x, factor, 1), factor, 2)


def _upsample_axis(x: jax.Array, factor: int, axis: int) -> jax.Array:
    size = x.shape[axis]
    first, last = (jax.lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, size - 1))
    before = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, size - 1, axis=axis)], axis)
    after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, size, axis=axis), last], axis)
    # The distance of each new pixel's centre from that of the old pixel that contains it, in old pixels.
    offset = (np.arange(factor) + 0.5) / factor - 0.5
    shape = [1] * (x.ndim + 1)
    shape[axis + 1] = factor

    def times(values, weights):
        weights = np.asarray(weights, x.dtype).reshape(shape)
        return jnp.expand_dims(values, axis + 1) * weights

    result = (
        times(before, np.maximum(-offset, 0))
        + times(x, 1 - np.abs(offset))
        + times(after, np.maximum(offset, 0))
    )
    return result.reshape(*x.shape[:axis], size * factor, *x.shape[axis + 1 :])
