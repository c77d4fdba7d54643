"""Where a result comes from: versions, the revision of the code, and a digest of the images."""

import functools
import hashlib
import os
import platform
import subprocess
from importlib import metadata

import numpy as np

from cifar_jax import __version__
from cifar_jax.data import datasets

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


def versions() -> dict[str, str]:
    """The versions of the project, of Python and of the packages that compute results."""
    found = {name: metadata.version(name) for name in _PACKAGES}
    return {"cifar_jax": __version__, "python": platform.python_version(), **found}


def dataset_fingerprint(dataset: datasets.Dataset) -> dict[str, str]:
    """The `digest` of each split."""
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    return {name: digest(split) for name, split in splits.items() if split}


def digest(split: datasets.Split) -> str:
    """SHA-256 of the images and labels of a split, as "sha256:...".

    Equal pixels and labels in the same order give equal digests, whatever they were read from.
    """
    sha256 = hashlib.sha256()
    for array, dtype in ((split.images, np.uint8), (split.labels, "<i4")):
        # The bytes alone do not tell the shape.
        sha256.update(f"{array.shape}".encode())
        # In parts: labels are widened, and masks are large.
        for start in range(0, len(array), 1000):
            sha256.update(np.ascontiguousarray(array[start : start + 1000], dtype).data)
    return f"sha256:{sha256.hexdigest()}"


@functools.cache
def revision(root: str = _ROOT) -> str | None:
    """The Git commit of the code, with "+dirty" if tracked files differ from it; None without Git.

    The result of the first call is kept, since files may change while the program runs.
    """
    try:
        # A copy of the code inside another project's repository is not at that project's commit.
        if os.path.realpath(_git(root, "rev-parse", "--show-toplevel")) != os.path.realpath(root):
            return None
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
        return _git(root, "rev-parse", "HEAD") + ("+dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: str, *args: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # `git status` must neither take nor wait for the lock of the repository.
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    done = subprocess.run(
        ["git", "-C", root, *args],
        check=True,
        capture_output=True,
        text=True,
        timeout=10,
        env=environment,
    )
    return done.stdout.strip()
