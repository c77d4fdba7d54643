"""SHA-256 digests of a checkpoint's files, stored beside them, so that damage is noticed before reading.

Neither Orbax nor TensorStore notices every changed byte; most would be restored as wrong weights.
"""

import hashlib
import json
import os

from cifar_jax.system import files

NAME = "sha256.json"


def write(folder: str, leave_out: tuple[str, ...] = ()) -> None:
    """Syncs the files of a folder to disk and adds the missing digests to `NAME`.

    After a power cut there are no digests, or digests of files that are on disk.

    Args:
      folder: all files below it get a digest.
      leave_out: names of files that will still change.
    """
    digests = {}
    if exist(folder):
        with open(os.path.join(folder, NAME), "rb") as file:
            digests = json.loads(file.read())
    for name in set(_names(folder)) - digests.keys() - set(leave_out):
        with open(os.path.join(folder, name), "rb") as file:
            os.fsync(file.fileno())
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    # Without blanks, every byte of the file matters: a changed byte is noticed.
    text = json.dumps(digests, sort_keys=True, separators=(",", ":"))
    files.write_bytes(os.path.join(folder, NAME), text.encode())


def exist(folder: str) -> bool:
    """Whether a folder has digests."""
    return os.path.lexists(os.path.join(folder, NAME))


def damage(folder: str) -> str:
    """What is wrong with a folder that has digests, in words; "" if every file matches its digest."""
    try:
        with open(os.path.join(folder, NAME), "rb") as file:
            digests = json.loads(file.read())
        wanted = {str(name): str(digest) for name, digest in digests.items()}
    except (OSError, ValueError, AttributeError, RecursionError):
        return f"{NAME} cannot be read"
    if not wanted:
        return f"{NAME} is empty"
    for name, digest in wanted.items():
        try:
            with open(os.path.join(folder, name), "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return f"{files.shown(name)} is missing"
        except (OSError, ValueError) as error:
            return f"{files.shown(name)}: {files.reason(error)}"
        if found != digest:
            return f"{files.shown(name)} has changed since it was saved"
    return ""


def _names(folder: str) -> list[str]:
    """The relative path of every file below a folder, except leftovers of a killed `write`."""
    found = []
    for place, _, names in os.walk(folder):
        found += [
            os.path.relpath(os.path.join(place, name), folder)
            for name in names
            if name != NAME and not name.startswith(f".{NAME}.")
        ]
    return sorted(found)
