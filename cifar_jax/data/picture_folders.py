"""The user's own pictures: a folder with one subfolder per class, decoded in parallel.

If the folder contains `train` and `test` (or `val`), with class folders inside, those are the splits.
Otherwise a share of each class is drawn to test on, by the names of its pictures and a separate seed. So
the split belongs to the data set, and no run tests on pictures that another run trained on.
"""

import concurrent.futures
import hashlib
import json
import os
import sys
from collections.abc import Callable

import numpy as np

from cifar_jax.data import pictures
from cifar_jax.data.source import Images, Source, progress
from cifar_jax.errors import UserError
from cifar_jax.system import files

# The names of split folders, in any case; the first one that is there counts.
TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "testing", "val", "validation", "valid")
# Folders that systems and programs leave behind. Hidden folders are skipped too.
SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"}
# How many broken pictures a message names.
_NAMED = 3


def pictures_source(config, image_size: int) -> Source:
    """The pictures in config.path (`config` is config.dataset), in the order of class and name.

    Raises:
      UserError: the folder is not such a data set.
    """
    folder = os.path.abspath(os.path.expanduser(config.path))
    if config.labels != "fine":
        raise UserError("a folder has no coarse labels; set config.dataset.labels=fine.")
    train, test = _splits(folder, config.test_share, config.split_seed)
    names = tuple(train)
    stats = [
        [os.path.relpath(path, folder), *size_and_time(path)]
        for split in (train, test)
        for paths in split.values()
        for path in paths
    ]
    digest = hashlib.sha256(json.dumps(stats).encode()).hexdigest()
    skip = config.broken_pictures == "skip"

    def read() -> Images:
        arrays, broken = [], []
        for what, split in (("train", train), ("test", test)):
            images, labels, errors = _decode(split, image_size, f"decoding {what}")
            arrays += [images, labels]
            broken += errors
        tell(broken, skip)
        for what, labels in (("train", arrays[1]), ("test", arrays[3])):
            for label in np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0):
                raise UserError(f"no {what} picture of the class {names[label]!r} can be read")
        return Images(*arrays, class_names=names)

    return Source(folder, [digest, config.broken_pictures], read)


def _splits(folder: str, share: float, seed: int) -> tuple[dict, dict]:
    """(train, test), each {class: [path of a picture, ...]} in the order of names."""
    shown = files.shown(folder)
    splits = split_folders(folder)
    if splits:
        train, test = (_classes(os.path.join(folder, name)) for name in splits)
        for name in sorted(train.keys() ^ test.keys()):
            has, lacks = splits if name in train else reversed(splits)
            raise UserError(f"{shown}: the class {name!r} is in {has}, but not in {lacks}")
        return train, test
    classes = _classes(folder)
    train, test = {}, {}
    for name, paths in classes.items():
        to_test = chosen(name, paths, share, seed)
        if not 0 < len(to_test) < len(paths):
            raise UserError(
                f"the class {name!r} in {shown} has {len(paths)} pictures: too few to train on some "
                f"and test on {share:g} of them (config.dataset.test_share)"
            )
        train[name] = [path for path in paths if path not in to_test]
        test[name] = [path for path in paths if path in to_test]
    return train, test


def split_folders(folder: str) -> tuple[str, str] | None:
    """The names of a folder's train and test folder; None if it has no train folder.

    Raises:
      UserError: the folder does not exist, or has folders to train on but none to test on.
    """
    shown = files.shown(folder)
    if not os.path.exists(folder):
        raise UserError(f"config.dataset.path: there is no folder {shown}")
    if not os.path.isdir(folder):
        raise UserError(f"config.dataset.path: {shown} is a file, not a folder")
    here = subfolders(folder)
    train, test = first(TRAIN_FOLDERS, here), first(TEST_FOLDERS, here)
    if train and test:
        return train, test
    if train and subfolders(os.path.join(folder, train)):
        raise UserError(f"{shown} has a folder {train}, but no folder test or val beside it")
    return None


def _classes(folder: str) -> dict[str, list[str]]:
    """{class: paths of its pictures}, both in the order of names."""
    shown = files.shown(folder)
    names = subfolders(folder)
    if not names:
        raise UserError(
            f"{shown} has no subfolders: put the pictures of each class into a subfolder"
        )
    if len(names) == 1:
        raise UserError(
            f"{shown} has only one class ({names[0]!r}): classification needs at least two"
        )
    return {name: pictures.pictures_in(os.path.join(folder, name)) for name in names}


def subfolders(folder: str) -> list[str]:
    """The names of a folder's subfolders, without hidden ones and those of `SYSTEM_FOLDERS`."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir()]
    return sorted(n for n in names if not n.startswith(".") and n not in SYSTEM_FOLDERS)


def first(wanted: tuple[str, ...], names: list[str]) -> str | None:
    """The name that matches the earliest of the wanted names, whatever its case; None without one."""
    by_lower_case = {name.lower(): name for name in reversed(names)}
    return next((by_lower_case[name] for name in wanted if name in by_lower_case), None)


def size_and_time(path: str) -> tuple[int, int]:
    """Size and time of change of a file; zeros for a broken link, which is reported as a broken picture."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def chosen(name: str, paths: list[str], share: float, seed: int) -> set[str]:
    """A share of the paths (rounded, at least one), drawn by their names."""

    def rank(path):
        text = json.dumps([seed, name, os.path.basename(path)])
        return hashlib.sha256(text.encode()).digest()

    return set(sorted(paths, key=rank)[: max(1, round(share * len(paths)))])


def _decode(split: dict, size: int, what: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(images uint8 [N, size, size, 3], labels int32 [N], a line for each broken picture).

    Decodes in threads: Pillow releases Python's lock to decode and resize.
    """
    paths = [path for paths in split.values() for path in paths]
    labels = np.repeat(np.arange(len(split), dtype=np.int32), [len(p) for p in split.values()])
    try:
        images = np.empty((len(paths), size, size, 3), np.uint8)
    except MemoryError:
        raise UserError(
            f"{len(paths)} pictures of {size}x{size} pixels need {len(paths) * size**2 * 3 / 1e9:.0f} GB "
            "of memory: choose a smaller config.dataset.image_size"
        ) from None

    def load(index):
        images[index] = pictures.load_picture(paths[index], size)

    whole, errors = in_threads(load, len(paths), what)
    if errors:
        images, labels = images[whole], labels[whole]
    return images, labels, errors


def in_threads(load: Callable[[int], None], count: int, what: str) -> tuple[np.ndarray, list[str]]:
    """Calls `load` with each index below `count`, in as many threads as there are CPUs for this process.

    Returns:
      (bool [count], for which of them it raised no UserError; a line for each other one).
    """
    whole = np.ones(count, bool)
    errors = []

    def tried(index):
        try:
            load(index)
        except UserError as error:
            return index, str(error)
        return index, None

    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with pictures.refused_bombs(), concurrent.futures.ThreadPoolExecutor(workers) as pool:
        try:
            for index, error in progress(pool.map(tried, range(count)), count, what):
                if error:
                    whole[index] = False
                    errors.append(error)
        # Ctrl-C must not wait until all pictures are decoded.
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return whole, errors


def tell(broken: list[str], skip: bool) -> None:
    """Prints the broken pictures, if they are to be skipped; else raises UserError if there are any."""
    if not broken:
        return
    if not skip:
        more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
        count = "1 picture" if len(broken) == 1 else f"{len(broken)} pictures"
        raise UserError(
            f"{count} cannot be read ({'; '.join(broken[:_NAMED])}{more}): repair or delete them, or set "
            "config.dataset.broken_pictures=skip, which lists all of them"
        )
    for line in broken:
        print(f"skipped: {line}", file=sys.stderr)
