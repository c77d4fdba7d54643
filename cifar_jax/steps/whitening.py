"""The kernel of a whitening first layer, computed from the training images before the first step.

It is a function of the data alone, computed once, on one device. Weights of `init_from` include the
kernel they were trained with, and keep it.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from cifar_jax import models

# Added to the eigenvalues, so that directions without variance are not amplified.
EPSILON = 5e-4
# The kernel is computed from the first images, up to this many pixels: 5,000 images of 32x32.
PIXELS = 5000 * 32 * 32
# (row, column) of the pixels of a 2x2 patch.
_OFFSETS = ((0, 0), (0, 1), (1, 0), (1, 1))


def kernel(images):
    """The whitening kernel of normalised images: float32 [N, height, width, c] -> [2, 2, c, 8c].

    Let E[p p^T] = V diag(l) V^T be the second moments of the patches p, with descending l. The first 4c
    filters are the columns of V / sqrt(l + EPSILON): their outputs are uncorrelated and have a mean
    square of 1 (unless l is small beside EPSILON). The other 4c filters are their negatives. Of v and
    -v, the one whose largest element is positive comes first.
    """
    channels, height, width = images.shape[3], images.shape[1] - 1, images.shape[2] - 1
    patches = jnp.concatenate([images[:, y : y + height, x : x + width] for y, x in _OFFSETS], -1)
    moments = _second_moments(patches.astype(jnp.float32))
    values, vectors = jnp.linalg.eigh(moments)
    values, vectors = values[::-1], vectors[:, ::-1]
    largest = jnp.take_along_axis(vectors, jnp.abs(vectors).argmax(0)[None], 0)
    filters = jnp.sign(largest) * vectors / jnp.sqrt(jnp.maximum(values, 0) + EPSILON)
    return jnp.concatenate([filters, -filters], -1).reshape(2, 2, channels, 8 * channels)


def _second_moments(patches):
    """The mean of p p^T over patches p [N, height, width, n]: [n, n].

    Sums over each image, then over the images. A matrix product would add in an order that depends on
    the number of cores and devices; these sums do not.
    """
    number, height, width, _ = patches.shape
    each = jnp.sum(patches[..., :, None] * patches[..., None, :], axis=(1, 2))
    # Keeps XLA from merging both into one sum over millions of terms.
    return jnp.sum(lax.optimization_barrier(each), axis=0) / (number * height * width)


def images_for(size: int, images: np.ndarray) -> np.ndarray:
    """The training images that the kernel is computed from, for a network input of `size` pixels."""
    return images[: max(1, PIXELS // size**2)]


def replaced(variables: dict, images) -> dict:
    """The variables with the whitening kernel of these normalised images."""
    layer = {"kernel": kernel(images)}
    return variables | {"batch_stats": variables["batch_stats"] | {models.WHITENING: layer}}
