"""Augmentation on the device, inside the step: pure functions of keys and a batch of images.

Each example has a key of its own, made from the seed, the step and the example's place in the global
batch (of flips that alternate: the seed and its place in the training set), so any number of devices
draws the same. Geometry works on uint8 pixels, before normalisation.
"""

import jax
import jax.numpy as jnp
from jax import lax


def example_keys(key, places):
    """One key per example: keys [batch] from a step's key and the places int32 [batch] in its batch."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, places)


def random_crop(keys, images, padding: int, mode: str = "constant"):
    """Pads by `padding` pixels and crops back to size at a random offset, each example its own.

    `mode` is "constant" (black) or "reflect" (the picture mirrored at its edge, which is not repeated),
    as in numpy.pad. keys [batch]; images [batch, height, width, channel], any dtype. Offsets are uniform over
    0 ... 2 * padding in each direction, as in He et al., 2016, section 4.2.
    """
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode)
    offsets = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, 2 * padding + 1))(keys)
    return jax.vmap(lambda image, offset: lax.dynamic_slice(image, (*offset, 0), images.shape[1:]))(
        padded, offsets
    )


def random_flip(keys, images):
    """Mirrors each of the images [batch, height, width, channel] left to right with probability 1/2."""
    return mirror(jax.vmap(jax.random.bernoulli)(keys), images)


def mirror(which, images):
    """Those of the images [batch, height, width, channel] mirrored for which `which` [batch] is true."""
    return jnp.where(which[:, None, None, None], images[:, :, ::-1], images)


def alternating(key, examples, epoch):
    """Bool [batch]: whether each example is mirrored in an epoch, which it is in every second one.

    A fair coin, the example's own, decides on the first epoch. So two epochs in a row show both sides of
    an image, where independent draws show one twice half of the time (Jordan, "94% on CIFAR-10 in 3.29
    Seconds on a Single GPU", 2024, section 3.6).

    Args:
      key: the run's, the same in every epoch.
      examples: int32 [batch], places in the training set.
      epoch: int32 [], from 0.
    """
    first = jax.vmap(jax.random.bernoulli)(example_keys(key, examples))
    return first ^ (epoch % 2 == 1)


def enlarge(images, size: int | None):
    """uint8 [batch, height, width, channel] to float32 [batch, size, size, channel], bilinear.

    Images of `size` already (or with no size asked for) are given back as they are. Pixels are squares
    whose centres the positions are taken from, as in PyTorch's `interpolate(align_corners=False)`.
    """
    if size is None or images.shape[1:3] == (size, size):
        return images
    shape = (images.shape[0], size, size, images.shape[3])
    return jax.image.resize(images.astype(jnp.float32), shape, "bilinear", antialias=False)


def normalize(images, mean, std, dtype=jnp.float32):
    """uint8 [..., channel] to (pixel / 255 - mean) / std, computed in float32, given as `dtype`."""
    scale = 1 / (255 * jnp.asarray(std, jnp.float32))
    shift = jnp.asarray(mean, jnp.float32) / jnp.asarray(std, jnp.float32)
    return (images.astype(jnp.float32) * scale - shift).astype(dtype)


def cutout(keys, images, size: int):
    """Sets a square of side `size`, centred on a random pixel, to zero (the mean colour).

    images [batch, height, width, channel], normalised. The square is cut off where it reaches over the
    edge (DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout",
    2017).
    """
    height, width = images.shape[1:3]
    centres = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, jnp.array([height, width])))(
        keys
    )

    def hidden(centre, length):
        offset = jnp.arange(length) - (centre[:, None] - size // 2)
        return (offset >= 0) & (offset < size)

    square = hidden(centres[:, 0], height)[:, :, None] & hidden(centres[:, 1], width)[:, None, :]
    return jnp.where(square[..., None], 0, images)


def jitter(keys, images, brightness: float, contrast: float):
    """Makes each of the normalised images brighter or darker, then richer or poorer in contrast.

    One number, uniform within +-brightness (in deviations of the data), is added to all of an image;
    all is then multiplied by another, uniform within 1 +- contrast. keys [batch]; images [batch,
    height, width, channel].
    """
    draws = jax.vmap(lambda key: jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0))(keys)
    shift, factor = brightness * draws[:, 0], 1 + contrast * draws[:, 1]
    return (images + shift[:, None, None, None]) * factor[:, None, None, None]


def network_input(images, size: int | None, mean, std):
    """What every network gets: uint8 [batch, height, width, channel], enlarged and normalised."""
    return normalize(enlarge(images, size), mean, std)


# Of an image and its mirror image: what is done to it, in pixels to the right and down, and the weight.
VIEWS = {
    "none": (),
    "mirror": (((0, 0), 1.0),),
    "mirror_and_shift": (((0, 0), 0.5), ((1, 1), 0.25), ((-1, -1), 0.25)),
}


def views(images, kind: str):
    """The views of each image that a prediction is averaged over, in test-time augmentation.

    Mirror images and shifts by a pixel along the diagonal, with the edge reflected into what is left
    open; weights as in Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024, section 3.5.

    Args:
      images: uint8 [batch, height, width, channel].
      kind: a key of `VIEWS` other than "none".

    Returns:
      (uint8 [views, batch, height, width, channel], weights float32 [views] of sum 1)
    """
    height, width = images.shape[1:3]
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    stacked, weights = [], []
    for (right, down), weight in VIEWS[kind]:
        view = padded[:, 1 - down : 1 - down + height, 1 - right : 1 - right + width]
        stacked += [view, view[:, :, ::-1]]
        weights += [weight / 2] * 2
    return jnp.stack(stacked), jnp.float32(weights)


def augment(step_key, places, images, config, mean, std, size: int | None = None, mirrored=None):
    """Crop, flip, enlarge, normalise, jitter and cutout, as config.augment says.

    Images that are stored small are cropped small, so that they are enlarged a batch at a time.

    Args:
      step_key: the key of this training step.
      places: int32 [batch], each example's place in the global batch.
      images: uint8 [batch, height, width, channel].
      config: config.augment.
      mean, std: per channel, for pixels scaled to [0, 1].
      size: height and width that the network takes; None: those of the images.
      mirrored: bool [batch], which images a flip mirrors; None: it is drawn.

    Returns:
      float32 [batch, size, size, channel], as the network gets them.
    """
    own_keys = example_keys(step_key, places)
    keys = jax.vmap(lambda key: jax.random.split(key, 3))(own_keys)
    if config.crop_padding:
        images = random_crop(keys[:, 0], images, config.crop_padding, config.padding_mode)
    if config.flip:
        images = random_flip(keys[:, 1], images) if mirrored is None else mirror(mirrored, images)
    images = network_input(images, size, mean, std)
    if config.brightness or config.contrast:
        # Not a fourth of the split, so that the three stay what they are.
        jitter_keys = jax.vmap(lambda key: jax.random.fold_in(key, 3))(own_keys)
        images = jitter(jitter_keys, images, config.brightness, config.contrast)
    if config.cutout:
        images = cutout(keys[:, 2], images, config.cutout)
    return images


def mixup_pairs(key, batch_size: int, alpha: float):
    """Partners and the share of the first of each pair, the same on every device.

    One share for the whole batch, from Beta(alpha, alpha), and a random permutation as partners
    (Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018, and its published code).

    Returns:
      (partner int32 [batch_size], share float32 [])
    """
    partner_key, share_key = jax.random.split(key)
    partner = jax.random.permutation(partner_key, batch_size)
    return partner, jax.random.beta(share_key, alpha, alpha, dtype=jnp.float32)
