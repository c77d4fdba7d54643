"""`Source` and `Images`, the interface of every source of images, and what all sources need.

A `Source` identifies its images without reading them, so that the cache can tell if they have changed. `read`
then decodes all of them.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from cifar_jax.data import masks
from cifar_jax.data.pictures import square_rgb
from cifar_jax.errors import UserError
from cifar_jax.system import memory

# Images up to this height and width stay small in memory and are enlarged on the device: 50,000 images
# take 150 MB at 32x32, and 7.5 GB at 224x224.
SMALL = 32


@dataclasses.dataclass(frozen=True)
class Images:
    """A decoded data set: images uint8 [N, size, size, 3] in C order, labels int32 [N].

    For segmentation, labels are masks uint8 [N, size, size] (`masks`), and the classes have colours.
    `completed` fills in `mean` and `std`, the `channel_statistics` of the training images. `skipped` has a
    line for each picture that could not be read.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    colours: tuple[tuple[int, int, int], ...] = ()
    skipped: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes:
      place: names it for people.
      version: JSON values that change whenever the data change.
      read: decodes all images.
    """

    place: str
    version: list
    read: Callable[[], Images]


def files_version(paths: Iterable[Path]) -> list:
    """[name, size in bytes, time of change in nanoseconds] of every file, in the order of names."""
    stats = ((path.name, path.stat()) for path in sorted(paths))
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def resize_all(images: np.ndarray, size: int, what: str) -> np.ndarray:
    """`square_rgb` of each image: uint8 [N, height, width(, 3)] -> [N, size, size, 3]."""
    if images.shape[1:] == (size, size, 3):
        return np.ascontiguousarray(images)
    check_fits(len(images), size)
    resized = np.empty((len(images), size, size, 3), np.uint8)
    for index, image in enumerate(progress(images, len(images), what)):
        resized[index] = square_rgb(Image.fromarray(image), size)
    return resized


def check_fits(count: int, size: int) -> None:
    """Raises UserError if `count` images of `size` x `size` pixels do not fit in this machine's memory."""
    needed, there = count * size * size * 3, memory.of_this_machine()
    if there and needed > there:
        raise UserError(
            f"{count:,} images of {size}x{size} pixels take {memory.in_words(needed)}, and this "
            f"machine has {memory.in_words(there)}: set a smaller config.dataset.image_size."
        )


def progress(items: Iterable, total: int | None, what: str, **options) -> tqdm:
    """A progress bar on standard error, if that is a terminal. It disappears when done."""
    return tqdm(items, total=total, desc=what, leave=False, disable=None, **options)


def completed(images: Images, place: str) -> Images:
    """The same images with the types that `Images` promises, and with their statistics.

    Raises UserError if a split has no images, or a label is not a class.
    """
    classes = len(images.class_names)
    for split, labels in (("train", images.train_labels), ("test", images.test_labels)):
        if len(labels) == 0:
            raise UserError(f"{place}: the {split} split holds no images.")
        counted = masks.counted(labels)
        if not counted.size:
            raise UserError(f"{place}: no pixel of the {split} split has a class.")
        low, high = int(np.min(counted)), int(np.max(counted))
        if low < 0 or high >= classes:
            raise UserError(
                f"{place}: the {split} split has labels from {low} to {high}, "
                f"but there are {classes} classes (0 to {classes - 1})."
            )
    mean, std = channel_statistics(images.train_images)
    dtype = np.int32 if images.train_labels.ndim == 1 else np.uint8
    return Images(
        np.ascontiguousarray(images.train_images, np.uint8),
        np.ascontiguousarray(images.train_labels, dtype),
        np.ascontiguousarray(images.test_images, np.uint8),
        np.ascontiguousarray(images.test_labels, dtype),
        images.class_names,
        mean,
        std,
        images.colours,
        images.skipped,
    )


def channel_statistics(
    images: np.ndarray,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and population standard deviation of each channel over all pixels, scaled to [0, 1].

    Sums of whole numbers, rounded once at the end, so every machine gets the same bits. A constant
    channel gets the deviation 1, so that normalising it gives zeros.
    """
    count = images[..., 0].size
    means, deviations = [], []
    for channel in range(3):
        histogram = np.bincount(images[..., channel].ravel(), minlength=256).tolist()
        total = sum(number * value for value, number in enumerate(histogram))
        squares = sum(number * value**2 for value, number in enumerate(histogram))
        means.append(total / (255 * count))
        variance = (count * squares - total**2) / (255 * count) ** 2
        deviations.append(math.sqrt(variance) or 1.0)
    return tuple(means), tuple(deviations)
