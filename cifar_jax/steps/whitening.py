"""The kernel of a first layer that whitens: from the training images, before the first step.

It is a function of the data alone, computed once, on one device; weights that are taken from elsewhere
(`init_from`) come with the kernel that they were trained behind, which stays.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from cifar_jax import models

# Added to the eigenvalues, so that directions without variance are not blown up.
EPSILON = 5e-4
# The kernel is taken from the first images, as many as have this many pixels: 5,000 of 32x32.
PIXELS = 5000 * 32 * 32
# A window of 2x2 pixels.
_OFFSETS = ((0, 0), (0, 1), (1, 0), (1, 1))


def kernel(images):
    """The whitening kernel of normalised images: float32 [N, height, width, c] to [2, 2, c, 8c].

    With the patches' second moments E[p p^T] = V diag(l) V^T, by descending l, the first 4c filters are the
    columns of V / sqrt(l + EPSILON), so that their answers are uncorrelated and of mean square 1 (where
    l is not small beside EPSILON); the others are their negatives. Of v and -v that one is first whose
    largest element is positive.
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

    Sums over an image and then over images, which neither the number of cores nor of devices changes, as
    it does the order in which a matrix product adds.
    """
    number, height, width, _ = patches.shape
    each = jnp.sum(patches[..., :, None] * patches[..., None, :], axis=(1, 2))
    # Else the two sums would be made one, over millions of terms.
    return jnp.sum(lax.optimization_barrier(each), axis=0) / (number * height * width)


def images_for(size: int, images: np.ndarray) -> np.ndarray:
    """The training images that the kernel of a network for images of a size is taken from."""
    return images[: max(1, PIXELS // size**2)]


def replaced(variables: dict, images) -> dict:
    """The variables with the kernel of these normalised images."""
    layer = {"kernel": kernel(images)}
    return variables | {"batch_stats": variables["batch_stats"] | {models.WHITENING: layer}}
