"""A cache of decoded images on disk, so that a run loads them in well under a second.

There is one file per source, image size and kind of labels. It is used only if the source has not changed
since and its checksums hold; else it is made again. It is written atomically, so processes that start at the
same time cannot damage it.
"""

import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np

from cifar_jax.data.source import Images, Source, completed
from cifar_jax.errors import UserError
from cifar_jax.system import console, files

# Raise it when the file format, the decoding of pictures, or the mean and deviation change.
_FORMAT = 2
_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
_TUPLES = ("class_names", "mean", "std")


def read_through(folder: Path, name: str, source: Source, variant: list) -> Images:
    """The images of `source`: from the cache, or else from the source, after which they are cached.

    `variant` is what else decides the images (size, kind of labels). Lists pictures that were skipped. If
    the cache cannot be read or written, a warning is logged.
    """
    place = hashlib.sha256(json.dumps([source.place, variant]).encode()).hexdigest()[:16]
    path = folder / f"{re.sub(r'[^a-z0-9_]+', '-', name.lower())}-{place}.npz"
    identity = json.dumps([_FORMAT, source.place, variant, source.version])
    images = _read(path, identity)
    if images is None:
        images = completed(source.read(), source.place)
        _write(path, identity, images)
    for line in images.skipped:
        print(f"skipped: {line}", file=sys.stderr)
    return images


def _read(path: Path, identity: str) -> Images | None:
    """The cached images of `identity`; None if there are none, or they are damaged."""
    try:
        # The file is a zip file, with a CRC-32 of each array that is checked here.
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(str(file["header"]))
            if header["identity"] != identity:
                return None
            arrays = {name: file[name] for name in _ARRAYS}
            tuples = {name: tuple(header[name]) for name in _TUPLES}
            colours = tuple(map(tuple, header.get("colours", ())))
            skipped = tuple(header.get("skipped", ()))
        return Images(**arrays, **tuples, colours=colours, skipped=skipped)
    except FileNotFoundError:
        return None
    # Damage may raise nearly any exception of zipfile, NumPy or JSON.
    except Exception as error:
        console.warn(f"{path} is damaged ({files.reason(error)}) and will be made again")
        return None


def _write(path: Path, identity: str, images: Images) -> None:
    tuples = {name: getattr(images, name) for name in _TUPLES}
    if images.colours:
        tuples["colours"] = images.colours
    if images.skipped:
        tuples["skipped"] = images.skipped
    header = json.dumps({"identity": identity, **tuples})
    arrays = {name: getattr(images, name) for name in _ARRAYS}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_path(path) as part, open(part, "wb") as file:
            np.savez(file, header=np.array(header), **arrays)
    except (OSError, UserError) as error:
        console.warn(f"decoded images cannot be cached in {path.parent}: {files.reason(error)}")
