"""What folders of pictures, with and without masks, have in common: splits, threads, broken files."""

import concurrent.futures
import hashlib
import json
import os
from collections.abc import Callable

import numpy as np

from cifar_jax.data.source import progress
from cifar_jax.errors import UserError
from cifar_jax.system import files

# The names of split folders, in any case; the first one that is there counts.
TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "testing", "val", "validation", "valid")
# How many broken pictures a message names.
_NAMED = 3


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
    here = files.subfolders(folder)
    train, test = first_present(TRAIN_FOLDERS, here), first_present(TEST_FOLDERS, here)
    if train and test:
        return train, test
    if train and files.subfolders(os.path.join(folder, train)):
        raise UserError(f"{shown} has a folder {train}, but no folder test or val beside it")
    return None


def first_present(wanted: tuple[str, ...], names: list[str]) -> str | None:
    """The name that matches the earliest of the wanted names, whatever its case; None without one."""
    by_lower_case = {name.lower(): name for name in reversed(names)}
    return next((by_lower_case[name] for name in wanted if name in by_lower_case), None)


def digest(folder: str, paths: list[str]) -> str:
    """A digest of the names, sizes and times of change of files below a folder."""
    stats = [[os.path.relpath(path, folder), *_size_and_time(path)] for path in paths]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


def _size_and_time(path: str) -> tuple[int, int]:
    """Size and time of change of a file; zeros for a broken link, which is reported as a broken picture."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def drawn_to_test(name: str, paths: list[str], share: float, seed: int) -> set[str]:
    """A share of the paths (rounded, at least one), drawn by their names."""

    def rank(path):
        text = json.dumps([seed, name, os.path.basename(path)])
        return hashlib.sha256(text.encode()).digest()

    return set(sorted(paths, key=rank)[: max(1, round(share * len(paths)))])


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
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
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


def refuse_broken(broken: list[str], skip: bool) -> None:
    """Raises UserError if there are broken pictures and they are not to be skipped."""
    if broken and not skip:
        more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
        count = "1 picture" if len(broken) == 1 else f"{len(broken)} pictures"
        raise UserError(
            f"{count} cannot be read ({'; '.join(broken[:_NAMED])}{more}): repair or delete them, or set "
            "config.dataset.broken_pictures=skip, which lists all of them"
        )
