"""A history on disk, one line of JSON per entry, in a file that grows with it.

Adding an entry costs the same after any number of epochs. A `mark` says which entries a file holds, so a
checkpoint has to keep no more than that.
"""

import hashlib
import json
import os
from collections.abc import Sequence

from cifar_jax.reporting import reports
from cifar_jax.system import files


class HistoryFile:
    """Writes a history. Every call is given all of it, which only grows."""

    def __init__(self, path: str | os.PathLike):
        self._path = path
        self._count, self._size = 0, -1  # what this object has written; nothing yet
        self._digest = hashlib.sha256()

    def write(self, history: Sequence[dict]) -> None:
        """Brings the file up to date. It is on disk when this returns.

        Adds the new entries or, in the first call and if somebody else has changed the size, writes all.
        """
        if not history:
            return
        grows = self._size >= 0 and _size(self._path) == self._size
        new = b"".join(_line(entry) for entry in history[self._count if grows else 0 :])
        if not grows:
            files.write_bytes(self._path, new)
            self._size, self._digest = 0, hashlib.sha256()
        elif new:
            files.append_bytes(self._path, new)
        self._size += len(new)
        self._digest.update(new)
        self._count = len(history)

    def mark(self) -> dict:
        """Says what was written: the number of entries, and the SHA-256 of their lines."""
        return {"entries": self._count, "sha256": self._digest.hexdigest()}


def read(path: str | os.PathLike, mark: dict) -> list[dict] | None:
    """The history that a mark tells of, if a file begins with it; else None."""
    if not mark["entries"]:
        return []
    try:
        with open(path, "rb") as file:
            lines = [file.readline() for _ in range(mark["entries"])]
    except OSError:
        return None
    if hashlib.sha256(b"".join(lines)).hexdigest() != mark["sha256"]:
        return None
    return [json.loads(line) for line in lines]


def _line(entry: dict) -> bytes:
    return (json.dumps(reports.plain(entry), ensure_ascii=False) + "\n").encode()


def _size(path: str | os.PathLike) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return -1
