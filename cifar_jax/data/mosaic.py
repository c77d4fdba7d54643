"""Scenes for segmentation, made from the images of a classification set.

A scene is covered with images as tiles, and more tiles of several sizes lie over them at random places. The
class of a pixel is that of the image it comes from. Scenes to test on are made from test images alone.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

from cifar_jax.data.masks import default_colours
from cifar_jax.data.source import Images, Source, check_fits, progress

# The sides of the tiles on top, and of those that cover the scene, as shares of the scene's side.
SIDES = (1 / 4, 3 / 8, 1 / 2, 3 / 4)
COVER = 1 / 2
# The number of tiles on top.
ON_TOP = 4


def mosaic_source(config, size: int, tiles: Source, read_tiles: Callable[[], Images]) -> Source:
    """Scenes of `size` x `size` pixels.

    Args:
      config: config.dataset, whose `split_seed` draws the scenes. With more scenes, the first ones stay.
      size: in pixels.
      tiles: where the tiles come from.
      read_tiles: reads them.
    """
    counts = (config.train_scenes, config.test_scenes)

    def read() -> Images:
        source = read_tiles()
        splits = (
            (source.train_images, source.train_labels),
            (source.test_images, source.test_labels),
        )
        arrays = []
        for split, (pixels, labels) in enumerate(splits):
            what = f"making {('train', 'test')[split]} scenes"
            arrays += _scenes(pixels, labels, counts[split], size, [config.split_seed, split], what)
        names = source.class_names
        return Images(*arrays, class_names=names, colours=default_colours(len(names)))

    version = [tiles.place, tiles.version, *counts, config.split_seed]
    return Source(f"scenes of {config.tiles}", version, read)


def _scenes(pixels, labels, count: int, size: int, seed: list[int], what: str):
    """Images uint8 [count, size, size, 3] and masks uint8 [count, size, size]."""
    check_fits(count, size)
    images = np.empty((count, size, size, 3), np.uint8)
    masks = np.empty((count, size, size), np.uint8)
    for index in progress(range(count), count, what):
        # NumPy guarantees raw bits across its versions, but not other draws.
        bits = np.random.PCG64(np.random.SeedSequence([*seed, index]))
        for side, top, left in _places(bits, size):
            tile = int(bits.random_raw() % len(pixels))
            _paste(images[index], masks[index], pixels[tile], labels[tile], side, top, left)
    return images, masks


def _places(bits, size: int):
    """(side, top, left) of each tile, from the bottom up; tiles may reach beyond the scene."""

    def draw(count):
        return int(bits.random_raw() % max(1, count))

    cover = max(1, round(COVER * size))
    shift_down, shift_right = draw(cover), draw(cover)
    for top in range(-shift_down, size, cover):
        for left in range(-shift_right, size, cover):
            yield cover, top, left
    for _ in range(ON_TOP):
        side = max(1, round(SIDES[draw(len(SIDES))] * size))
        yield side, draw(size - side + 1), draw(size - side + 1)


def _paste(image, mask, tile, label, side: int, top: int, left: int) -> None:
    if side != len(tile):
        picture = Image.fromarray(tile)
        tile = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))
    here = np.s_[max(top, 0) : top + side, max(left, 0) : left + side]
    height, width = mask[here].shape
    image[here] = tile[max(-top, 0) :, max(-left, 0) :][:height, :width]
    mask[here] = label
