"""SHA-256 of every file of a checkpoint, kept beside them: what was changed since is not read.

Neither Orbax nor TensorStore notices every changed byte. Most would be restored as wrong weights.
"""

import hashlib
import json
import os

from cifar_jax.system import files

NAME = "sha256.json"


def write(folder: str, leave_out: tuple[str, ...] = ()) -> None:
    """Puts the files of a folder on the disk, and the digests of those that have none yet into `NAME`.

    A power cut leaves no digests, or digests of what is there.

    Args:
      folder: digests are of all files below it.
      leave_out: names of files in it that will still change.
    """
    digests = {}
    if exist(folder):
        with open(os.path.join(folder, NAME), "rb") as file:
            digests = json.loads(file.read())
    for name in set(_names(folder)) - digests.keys() - set(leave_out):
        with open(os.path.join(folder, name), "rb") as file:
            os.fsync(file.fileno())
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    # No blanks, so that no byte of the file is without a meaning.
    text = json.dumps(digests, sort_keys=True, separators=(",", ":"))
    files.write_bytes(os.path.join(folder, NAME), text.encode())


def exist(folder: str) -> bool:
    """Whether the digests of a folder were written."""
    return os.path.lexists(os.path.join(folder, NAME))


def damage(folder: str) -> str:
    """What is wrong with a folder that has digests, in words; "" if every file is as it was."""
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
            return f"{files.shown(name)} is not as it was saved"
    return ""


def _names(folder: str) -> list[str]:
    """Every file below a folder, by its path from there; but for what a killed `write` left."""
    found = []
    for place, _, names in os.walk(folder):
        found += [
            os.path.relpath(os.path.join(place, name), folder)
            for name in names
            if name != NAME and not name.startswith(f".{NAME}.")
        ]
    return sorted(found)
