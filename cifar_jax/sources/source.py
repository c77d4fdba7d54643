"""What every source of images hands over, and what they share: naming files, turning pictures into arrays.

A `Source` knows what identifies its images (so that a cache can tell whether it is stale) without
reading them; `read` then decodes all of them, once.
"""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from cifar_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Images:
    """A data set, decoded: images uint8 [N, size, size, 3] in C order, labels int32 [N]."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]


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


def square_rgb(picture: Image.Image, size: int) -> np.ndarray:
    """A picture of any mode and shape as uint8 [size, size, 3].

    What is not square is cropped to its central square, then resized with antialiasing. Grey
    becomes three equal channels.
    """
    if picture.mode != "RGB":
        picture = picture.convert("RGB")
    width, height = picture.size
    if (width, height) != (size, size):
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        picture = picture.resize(
            (size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
        )
    return np.asarray(picture)


def resize_all(images: np.ndarray, size: int, what: str) -> np.ndarray:
    """uint8 [N, height, width, 3] or [N, height, width] to [N, size, size, 3], as `square_rgb`."""
    if images.shape[1:] == (size, size, 3):
        return np.ascontiguousarray(images)
    resized = np.empty((len(images), size, size, 3), np.uint8)
    for index, image in enumerate(progress(images, len(images), what)):
        resized[index] = square_rgb(Image.fromarray(image), size)
    return resized


def progress(items: Iterable, total: int | None, what: str, **options) -> tqdm:
    """A progress bar on stderr where that is a terminal, gone when done; nothing elsewhere."""
    return tqdm(items, total=total, desc=what, leave=False, disable=None, **options)


def checked(images: Images, place: str) -> Images:
    """The same images, in the types that are promised; empty splits and odd labels are refused."""
    classes = len(images.class_names)
    labels = {}
    for split, values in (("train", images.train_labels), ("test", images.test_labels)):
        if len(values) == 0:
            raise UserError(f"{place}: the {split} split holds no images.")
        low, high = int(np.min(values)), int(np.max(values))
        if low < 0 or high >= classes:
            raise UserError(
                f"{place}: the {split} split has labels from {low} to {high}, "
                f"but there are {classes} classes (0 to {classes - 1})."
            )
        labels[split] = np.asarray(values, np.int32)
    return dataclasses.replace(
        images,
        train_images=np.ascontiguousarray(images.train_images, np.uint8),
        train_labels=labels["train"],
        test_images=np.ascontiguousarray(images.test_images, np.uint8),
        test_labels=labels["test"],
    )


def reason(error: BaseException) -> str:
    """An exception's message on one line, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
