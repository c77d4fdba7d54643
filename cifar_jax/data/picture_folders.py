"""The user's own pictures: a folder with one subfolder per class, decoded in parallel.

A class has the pictures of its folder and of all folders below it.

If the folder contains `train` and `test` (or `val`), with class folders inside, those are the splits.
Otherwise a share of each class is drawn to test on, by the names of its pictures and a separate seed. So
the split belongs to the data set, and no run tests on pictures that another run trained on.
"""

import os

import numpy as np

from cifar_jax.data import folders, pictures
from cifar_jax.data.source import Images, Source, check_fits
from cifar_jax.errors import UserError
from cifar_jax.system import files


def pictures_source(config, image_size: int) -> Source:
    """The pictures in config.path (`config` is config.dataset), in the order of class and name.

    Raises:
      UserError: the folder is not such a data set.
    """
    folder = os.path.abspath(os.path.expanduser(config.path))
    if config.labels != "fine":
        raise UserError(f"a folder has no {config.labels} labels; set config.dataset.labels=fine.")
    train, test = _splits(folder, config.test_share, config.split_seed)
    names = tuple(train)
    paths = [path for split in (train, test) for paths in split.values() for path in paths]
    digest = folders.digest(folder, paths)
    skip = config.broken_pictures == "skip"

    def read() -> Images:
        arrays, broken = [], []
        for what, split in (("train", train), ("test", test)):
            images, labels, errors = _decode(split, image_size, f"decoding {what}")
            arrays += [images, labels]
            broken += errors
        folders.refuse_broken(broken, skip)
        for what, labels in (("train", arrays[1]), ("test", arrays[3])):
            for label in np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0):
                raise UserError(f"no {what} picture of the class {names[label]!r} can be read")
        return Images(*arrays, class_names=names, skipped=tuple(broken))

    return Source(folder, [digest, config.broken_pictures], read)


def _splits(folder: str, share: float, seed: int) -> tuple[dict, dict]:
    """(train, test), each {class: [path of a picture, ...]} in the order of names."""
    shown = files.shown(folder)
    splits = folders.split_folders(folder)
    if splits:
        train, test = (_classes(os.path.join(folder, name)) for name in splits)
        for name in sorted(train.keys() ^ test.keys()):
            has, lacks = splits if name in train else reversed(splits)
            raise UserError(f"{shown}: the class {name!r} is in {has}, but not in {lacks}")
        return train, test
    classes = _classes(folder)
    train, test = {}, {}
    for name, paths in classes.items():
        to_test = folders.drawn_to_test(name, paths, share, seed)
        if not 0 < len(to_test) < len(paths):
            raise UserError(
                f"the class {name!r} in {shown} has {len(paths)} pictures: too few to train on some "
                f"and test on {share:g} of them (config.dataset.test_share)"
            )
        train[name] = [path for path in paths if path not in to_test]
        test[name] = [path for path in paths if path in to_test]
    return train, test


def _classes(folder: str) -> dict[str, list[str]]:
    """{class: paths of its pictures}, both in the order of names."""
    shown = files.shown(folder)
    names = files.subfolders(folder)
    if not names:
        raise UserError(
            f"{shown} has no subfolders: put the pictures of each class into a subfolder"
        )
    if len(names) == 1:
        raise UserError(
            f"{shown} has only one class ({names[0]!r}): classification needs at least two"
        )
    for name in names:
        files.check_name(name, f"{shown}: the name of the class")
    return {name: pictures.pictures_in(os.path.join(folder, name), nested=True) for name in names}


def _decode(split: dict, size: int, what: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(images uint8 [N, size, size, 3], labels int32 [N], a line for each broken picture).

    Decodes in threads: Pillow releases Python's lock to decode and resize.
    """
    paths = [path for paths in split.values() for path in paths]
    labels = np.repeat(np.arange(len(split), dtype=np.int32), [len(p) for p in split.values()])
    check_fits(len(paths), size)
    images = np.empty((len(paths), size, size, 3), np.uint8)

    def load(index):
        images[index] = pictures.load_picture(paths[index], size)

    whole, errors = folders.in_threads(load, len(paths), what)
    if errors:
        images, labels = images[whole], labels[whole]
    return images, labels, errors
