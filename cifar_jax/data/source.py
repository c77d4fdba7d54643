"""What every source of images hands over, and the few things that all of them need.

A `Source` knows what identifies its images (so that a cache can tell whether it is stale) without
reading them; `read` then decodes all of them, once.
"""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from cifar_jax.data.pictures import square_rgb
from cifar_jax.errors import UserError
from cifar_jax.system import memory

# Images of up to so many pixels a side lie in memory as they are, however large a network takes them:
# 50,000 of 32x32 are 150 MB, of 224x224 7.5 GB.
SMALL = 32


@dataclasses.dataclass(frozen=True)
class Images:
    """A data set, decoded: images uint8 [N, size, size, 3] in C order, labels int32 [N].

    `mean` and `std` are what `completed` fills in: `channel_statistics` of the training images.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a data set comes from: `place` names it for people, `version` changes when it changes.

    `place` and `version` are made of what JSON can hold.
    """

    place: str
    version: list
    read: Callable[[], Images]


def files_version(paths: Iterable[Path]) -> list:
    """Name, size in bytes and time of change in nanoseconds of every file, in order of name."""
    stats = ((path.name, path.stat()) for path in sorted(paths))
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def resize_all(images: np.ndarray, size: int, what: str) -> np.ndarray:
    """uint8 [N, height, width, 3] or [N, height, width] to [N, size, size, 3], as `square_rgb`."""
    if images.shape[1:] == (size, size, 3):
        return np.ascontiguousarray(images)
    check_fits(len(images), size)
    resized = np.empty((len(images), size, size, 3), np.uint8)
    for index, image in enumerate(progress(images, len(images), what)):
        resized[index] = square_rgb(Image.fromarray(image), size)
    return resized


def check_fits(count: int, size: int) -> None:
    """Raises UserError unless as many images of a size fit into the memory of this machine."""
    needed, there = count * size * size * 3, memory.of_this_machine()
    if there and needed > there:
        raise UserError(
            f"{count:,} images of {size}x{size} pixels take {memory.in_words(needed)}, and this "
            f"machine has {memory.in_words(there)}: set a smaller config.dataset.image_size."
        )


def progress(items: Iterable, total: int | None, what: str, **options) -> tqdm:
    """A progress bar on stderr where that is a terminal, gone when done; nothing elsewhere."""
    return tqdm(items, total=total, desc=what, leave=False, disable=None, **options)


def completed(images: Images, place: str) -> Images:
    """The same images in the types that are promised, with their statistics.

    Raises UserError for a split with no images and for labels that are no class.
    """
    classes = len(images.class_names)
    for split, labels in (("train", images.train_labels), ("test", images.test_labels)):
        if len(labels) == 0:
            raise UserError(f"{place}: the {split} split holds no images.")
        low, high = int(np.min(labels)), int(np.max(labels))
        if low < 0 or high >= classes:
            raise UserError(
                f"{place}: the {split} split has labels from {low} to {high}, "
                f"but there are {classes} classes (0 to {classes - 1})."
            )
    mean, std = channel_statistics(images.train_images)
    return Images(
        np.ascontiguousarray(images.train_images, np.uint8),
        np.ascontiguousarray(images.train_labels, np.int32),
        np.ascontiguousarray(images.test_images, np.uint8),
        np.ascontiguousarray(images.test_labels, np.int32),
        images.class_names,
        mean,
        std,
    )


def channel_statistics(
    images: np.ndarray,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and (population) deviation of each channel over all pixels, scaled to [0, 1].

    Exact up to float64 rounding, from how often each of the 256 values occurs. A channel that
    does not vary gets the deviation 1, so that dividing by it leaves zeros.
    """
    values = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(3):
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., 0].size
        mean = float(share @ values)
        means.append(mean)
        deviations.append(float(np.sqrt(share @ (values - mean) ** 2)) or 1.0)
    return tuple(means), tuple(deviations)
