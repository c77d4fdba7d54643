"""The user's own pictures with masks, decoded in parallel.

A folder holds the folders `images` and `masks`, with files of equal names (or NAME and NAME_mask), or
pictures NAME_sat and their masks NAME_mask side by side. `images` and `masks` may have equal folders inside.
Folders `train` and `test` (or `val`), each of which is such a folder, are the splits; otherwise a share is
drawn to test on, as for `picture_folders`.
"""

import os

import numpy as np

from cifar_jax.data import folders, masks, pictures
from cifar_jax.data.source import Images, Source, check_fits
from cifar_jax.errors import UserError
from cifar_jax.system import files

_MASK, _PICTURE = "_mask", "_sat"

# (picture, mask), paths of two files.
Pair = tuple[str, str]


def segmentation_source(config, image_size: int) -> Source:
    """The pictures and masks in config.path (`config` is config.dataset), in the order of names.

    Raises:
      UserError: the folder is not such a data set.
    """
    folder = os.path.abspath(os.path.expanduser(config.path))
    classes = masks.parse_classes(config.classes, config.void)
    splits = _splits(folder, config.test_share, config.split_seed)
    digest = folders.digest(folder, [path for split in splits for pair in split for path in pair])
    skip = config.broken_pictures == "skip"

    def read() -> Images:
        reader = masks.Reader(classes)
        arrays, broken = [], []
        for what, split in zip(("train", "test"), splits, strict=True):
            images, labels, errors = _decode(split, image_size, reader, f"decoding {what}")
            arrays += [images, labels]
            broken += errors
        folders.refuse_broken(broken, skip)
        names, colours = masks.names_and_colours(classes, reader, files.shown(folder))
        return Images(*arrays, class_names=names, colours=colours, skipped=tuple(broken))

    version = [digest, len(splits[0]), config.broken_pictures, config.classes, config.void]
    return Source(folder, [*version, masks.READING], read)


def _splits(folder: str, share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """(train, test), in the order of names."""
    shown = files.shown(folder)
    found = folders.split_folders(folder)
    if found:
        return tuple(_pairs(os.path.join(folder, name)) for name in found)
    pairs = _pairs(folder)
    to_test = folders.drawn_to_test("", [picture for picture, _ in pairs], share, seed)
    if not 0 < len(to_test) < len(pairs):
        raise UserError(
            f"{shown} has {len(pairs)} pictures: too few to train on some and test on {share:g} of them "
            "(config.dataset.test_share)"
        )
    train = [pair for pair in pairs if pair[0] not in to_test]
    return train, [pair for pair in pairs if pair[0] in to_test]


def _pairs(folder: str) -> list[Pair]:
    """The pictures of a folder with their masks. Raises UserError if one of them lacks the other."""
    inside = files.subfolders(folder)
    images, of_masks = (folders.first_present((name,), inside) for name in ("images", "masks"))
    if images and of_masks:
        found = pictures.pictures_in(os.path.join(folder, images), nested=True)
        mask_files = pictures.pictures_in(os.path.join(folder, of_masks), nested=True)
    elif images or of_masks:
        lacks = "masks" if images else "images"
        raise UserError(f"{files.shown(folder)} has no folder {lacks} beside {images or of_masks}")
    else:
        together = pictures.pictures_in(folder)
        found = [path for path in together if not _stem(path).endswith(_MASK)]
        mask_files = [path for path in together if _stem(path).endswith(_MASK)]
        if not mask_files:
            raise UserError(
                f"{files.shown(folder)} has no masks: put pictures into {os.path.join(folder, 'images')} and "
                f"their masks, of equal names, into {os.path.join(folder, 'masks')}; or name them "
                f"NAME{_PICTURE}.jpg and NAME{_MASK}.png"
            )
    by_name = (
        _by_name(found, os.path.join(folder, images or ""), _PICTURE),
        _by_name(mask_files, os.path.join(folder, of_masks or ""), _MASK),
    )
    for names, others, what, lacks in (
        (*by_name, "picture", "mask"),
        (*reversed(by_name), "mask", "picture"),
    ):
        alone = sorted(names.keys() - others.keys())
        if alone:
            more = f" (nor do {len(alone) - 1} more)" if len(alone) > 1 else ""
            raise UserError(f"the {what} {files.shown(names[alone[0]])} has no {lacks}{more}")
    return [(path, by_name[1][name]) for name, path in sorted(by_name[0].items())]


def _by_name(paths: list[str], folder: str, ending: str) -> dict[str, str]:
    """{path in the folder, without suffix and ending: path}. UserError if two files have the same one."""
    found = {}
    for path in paths:
        name = os.path.splitext(os.path.relpath(path, folder))[0].removesuffix(ending)
        if name in found:
            raise UserError(
                f"{files.shown(found[name])} and {files.shown(path)} have the same name"
            )
        found[name] = path
    return found


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _decode(pairs: list[Pair], size: int, reader: masks.Reader, what: str):
    """(images uint8 [N, size, size, 3], masks uint8 [N, size, size], a line for each broken file)."""
    check_fits(len(pairs), size)
    images = np.empty((len(pairs), size, size, 3), np.uint8)
    labels = np.empty((len(pairs), size, size), np.uint8)

    def load(index):
        picture, mask = pairs[index]
        opened = pictures.open_picture(picture)
        labels[index] = masks.square(reader.read(mask, opened.size), size)
        images[index] = pictures.square_rgb(opened, size)

    whole, errors = folders.in_threads(load, len(pairs), what)
    return images[whole], labels[whole], errors
