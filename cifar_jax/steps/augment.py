"""Augmentation on the device, inside the step: pure functions of keys and a batch of images.

Each example has its own key, derived from the seed, the step and the example's place in the global batch.
(Alternating flips: from the seed and the place in the training set.) So any number of devices draws the
same. Crops and flips work on uint8 pixels, before normalisation.
"""

import jax
import jax.numpy as jnp
from jax import lax

from cifar_jax.data import masks


def example_keys(key, places):
    """One key per example: keys [batch], from a step's key and int32 [batch] places in its global batch."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, places)


def random_crop(keys, images, padding: int, mode: str = "constant", fill: int = 0):
    """Pads by `padding` pixels and crops back to size, at a random offset for each example.

    Offsets are uniform over 0 ... 2 * padding in each direction (He et al., 2016, section 4.2).

    Args:
      keys: [batch].
      images: [batch, height, width, channel], any dtype.
      padding: in pixels, on each side.
      mode: "constant" (`fill`) or "reflect" (mirrored at the edge, without repeating it), as in numpy.pad.
      fill: 0 is black.
    """
    around = {"constant_values": fill} if mode == "constant" else {}
    width = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(images, width, mode, **around)
    offsets = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, 2 * padding + 1))(keys)
    return jax.vmap(lambda image, offset: lax.dynamic_slice(image, (*offset, 0), images.shape[1:]))(
        padded, offsets
    )


def coins(keys):
    """True with probability 1/2 for each of the keys [batch]: bool [batch]."""
    return jax.vmap(jax.random.bernoulli)(keys)


def mirror(which, images):
    """Mirrors images left to right where `which` [batch] is true; images [batch, height, width, channel]."""
    return jnp.where(which[:, None, None, None], images[:, :, ::-1], images)


def alternating(key, examples, epoch):
    """Whether each example is mirrored in an epoch: bool [batch]. It alternates from epoch to epoch.

    A fair coin per example decides about the first epoch. Two epochs in a row therefore show both sides
    of an image; independent draws show the same side twice half of the time (Jordan, "94% on CIFAR-10 in
    3.29 Seconds on a Single GPU", 2024, section 3.6).

    Args:
      key: the same in every epoch of the run.
      examples: int32 [batch], places in the training set.
      epoch: int32 [], from 0.
    """
    first = coins(example_keys(key, examples))
    return first ^ (epoch % 2 == 1)


def enlarge(images, size: int | None):
    """Bilinear: uint8 [batch, height, width, channel] -> float32 [batch, size, size, channel].

    Images that have this size already, or any images if `size` is None, are returned as they are.
    Positions are those of pixel centres, as in PyTorch's `interpolate(align_corners=False)`.
    """
    if size is None or images.shape[1:3] == (size, size):
        return images
    shape = (images.shape[0], size, size, images.shape[3])
    return jax.image.resize(images.astype(jnp.float32), shape, "bilinear", antialias=False)


def enlarge_masks(labels, size: int | None):
    """Nearest neighbour: uint8 [batch, height, width] -> [batch, size, size], aligned with `enlarge`."""
    if size is None or labels.shape[1:] == (size, size):
        return labels
    return jax.image.resize(labels, (len(labels), size, size), "nearest")


def normalize(images, mean, std, dtype=jnp.float32):
    """(pixel / 255 - mean) / std of uint8 [..., channel], computed in float32, returned as `dtype`."""
    scale = 1 / (255 * jnp.asarray(std, jnp.float32))
    shift = jnp.asarray(mean, jnp.float32) / jnp.asarray(std, jnp.float32)
    return (images.astype(jnp.float32) * scale - shift).astype(dtype)


def cutout(keys, images, size: int):
    """Sets a square of side `size`, centred on a random pixel, to zero (the mean colour).

    The part of the square beyond the edge of the image is cut off (DeVries and Taylor, "Improved
    Regularization of Convolutional Neural Networks with Cutout", 2017). Takes keys [batch] and
    normalised images [batch, height, width, channel].
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
    """Changes the brightness, then the contrast, of each normalised image.

    A number uniform within +-brightness (in standard deviations of the data) is added to the whole
    image. Then the image is multiplied by a number uniform within 1 +- contrast. Takes keys [batch] and
    images [batch, height, width, channel].
    """
    draws = jax.vmap(lambda key: jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0))(keys)
    shift, factor = brightness * draws[:, 0], 1 + contrast * draws[:, 1]
    return (images + shift[:, None, None, None]) * factor[:, None, None, None]


def network_input(images, size: int | None, mean, std):
    """The input of a network: uint8 images [batch, height, width, channel], enlarged and normalised."""
    return normalize(enlarge(images, size), mean, std)


# Shifts of an image and its mirror image, as ((pixels right, pixels down), weight).
VIEWS = {
    "none": (),
    "mirror": (((0, 0), 1.0),),
    "mirror_and_shift": (((0, 0), 0.5), ((1, 1), 0.25), ((-1, -1), 0.25)),
}


def views(images, kind: str):
    """The views of each image whose logits are averaged in test-time augmentation.

    They are mirror images and shifts by one pixel along the diagonal; reflection fills the gap at the
    edge. Weights as in Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024, section 3.5.

    Args:
      images: uint8 [batch, height, width, channel].
      kind: a key of `VIEWS` other than "none".

    Returns:
      (uint8 [views, batch, height, width, channel], float32 [views] weights that sum to 1)
    """
    height, width = images.shape[1:3]
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    stacked, weights = [], []
    for (right, down), weight in VIEWS[kind]:
        view = padded[:, 1 - down : 1 - down + height, 1 - right : 1 - right + width]
        stacked += [view, view[:, :, ::-1]]
        weights += [weight / 2] * 2
    return jnp.stack(stacked), jnp.float32(weights)


def augment(
    step_key, places, images, config, mean, std, size: int | None = None, mirrored=None, labels=None
):
    """Crops, flips, enlarges, normalises, jitters and cuts out, as config.augment says.

    Small images are cropped before they are enlarged, so only one batch at a time is held enlarged.

    Each example's key is split into three, for crop, flip and cutout; jitter takes `fold_in(key, 3)`. A new
    augmentation takes `fold_in` with the next number, so that the others keep their random numbers.

    Args:
      step_key: the key of this training step.
      places: int32 [batch], each example's place in the global batch.
      images: uint8 [batch, height, width, channel].
      config: config.augment.
      mean, std: per channel, for pixels scaled to [0, 1].
      size: height and width of the network's input; None: the size of the images.
      mirrored: bool [batch], which images are flipped; None: drawn at random.
      labels: masks uint8 [batch, height, width], which are cropped, flipped and enlarged alike. A border of
        black pixels gets the label `masks.VOID`.

    Returns:
      float32 [batch, size, size, channel], as the network gets them; with labels, (images, labels uint8
      [batch, size, size]).
    """
    own_keys = example_keys(step_key, places)
    keys = jax.vmap(lambda key: jax.random.split(key, 3))(own_keys)
    if config.crop_padding:
        crop = (config.crop_padding, config.padding_mode)
        images = random_crop(keys[:, 0], images, *crop)
        if labels is not None:
            labels = random_crop(keys[:, 0], labels[..., None], *crop, fill=masks.VOID)[..., 0]
    if config.flip:
        if mirrored is None:
            mirrored = coins(keys[:, 1])
        images = mirror(mirrored, images)
        if labels is not None:
            labels = mirror(mirrored, labels[..., None])[..., 0]
    images = network_input(images, size, mean, std)
    if config.brightness or config.contrast:
        jitter_keys = jax.vmap(lambda key: jax.random.fold_in(key, 3))(own_keys)
        images = jitter(jitter_keys, images, config.brightness, config.contrast)
    if config.cutout:
        images = cutout(keys[:, 2], images, config.cutout)
    return images if labels is None else (images, enlarge_masks(labels, size))


def mixup_pairs(key, batch_size: int, alpha: float):
    """A partner for each example of a batch, and the share of the example itself in the mixture.

    Partners are a random permutation. The whole batch has one share, drawn from Beta(alpha, alpha)
    (Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018, and its published code). Both are
    the same on every device.

    Returns:
      (partner int32 [batch_size], share float32 [])
    """
    partner_key, share_key = jax.random.split(key)
    partner = jax.random.permutation(partner_key, batch_size)
    return partner, jax.random.beta(share_key, alpha, alpha, dtype=jnp.float32)
