"""Atomic writes, cache folders, and checks of files.

All files for users are written here: after a kill at any moment, the old file or the new one is there, never
a part of one. Only files that grow may end with a part of what was added.
"""

import contextlib
import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from cifar_jax.errors import UserError

# Folders that systems and programs leave behind.
SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"}
# The names of the temporary files of `atomic_path`.
_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[str]:
    """Yields the path of an empty temporary file that replaces `path` when the block ends.

    An exception inside the block leaves `path` unchanged and deletes the temporary file. If `path` is a
    symbolic link, the file it points to is replaced. At the end of the block, the file and its name are
    on disk (fsync).

    Raises:
      UserError: the system refuses (no such folder, no permission, disk full).
    """
    target = os.path.realpath(path)
    # The system refuses to replace a folder, but not these.
    if os.path.exists(target) and not (os.path.isfile(target) or os.path.isdir(target)):
        raise UserError(f"cannot write {shown(path)}: it is a pipe, socket or device")
    folder, name = os.path.split(target)
    # Hidden, so that nobody takes it for a result; random, so that two writers never share it; cut,
    # because file systems allow 255 bytes per name.
    temporary = os.path.join(folder, f".{name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        # Files of `tempfile` would ignore the umask and be readable by their owner only.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        # Some network file systems cannot sync a folder; the new file is there all the same.
        with contextlib.suppress(OSError):
            _sync(folder)
    except OSError as error:
        raise UserError(f"cannot write {shown(path)}: {reason(error)}") from error


def subfolders(folder: str | os.PathLike) -> list[str]:
    """The names of a folder's subfolders, without hidden ones and those of `SYSTEM_FOLDERS`."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir()]
    return sorted(n for n in names if not n.startswith(".") and n not in SYSTEM_FOLDERS)


def check_name(path: str, what: str) -> None:
    """Raises UserError if a path is not valid UTF-8: plots, checkpoints and JSON files cannot hold it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UserError(f"{what} {path!a} is not valid UTF-8: rename it") from None


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Writes `data` to the file at `path`, atomically. Raises UserError as `atomic_path` does."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


def append_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Adds `data` to a file, in one write; it is on disk when this returns. A failed write leaves nothing.

    Raises UserError as `atomic_path` does.
    """
    with refused(f"cannot write {shown(path)}"), open(path, "ab", buffering=0) as file:
        size = file.tell()
        try:
            if file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                file.truncate(size)
            raise


def remove_leftovers(folder: str | os.PathLike, seconds: float = 0.0) -> None:
    """Deletes temporary files that killed writers left behind, if they are older than `seconds`.

    Files of writers that are still at work look the same. So hold a lock, or give an age.
    """
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            old = not seconds or time.time() - entry.stat().st_mtime > seconds
            if old and _LEFTOVER.fullmatch(entry.name):
                os.unlink(entry)


@contextlib.contextmanager
def refused(what: str) -> Iterator[None]:
    """Turns an OSError into a UserError that begins with `what`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{what}: {reason(error)}") from error


def cache_folder(folder: str = "") -> Path:
    """The cache folder: `folder`, or else `cifar_jax` in XDG_CACHE_HOME or ~/.cache.

    For a user without a home folder, it is a folder that cannot be made. Its users then warn, as they
    do about any folder that cannot be made.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        return Path(folder or base / "cifar_jax").expanduser()
    except RuntimeError:
        return Path(os.devnull, "no home folder")


def check_regular_file(path: str | os.PathLike) -> None:
    """Raises UserError unless `path` is a regular file that is not empty. Never blocks on a pipe."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise UserError(f"{shown(path)}: {reason(error)}") from error
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{shown(path)} is a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{shown(path)} is a pipe, socket or device, not a file")
    if status.st_size == 0:
        raise UserError(f"{shown(path)} is empty (0 bytes)")


def reason(error: Exception) -> str:
    """An error as one short line: the system's own words, without error number and path."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(words.split())


def shown(path: str | os.PathLike) -> str:
    """`path` as text for a message; quoted if it has line breaks or bytes that cannot be decoded."""
    text = os.fsdecode(path)
    return text if text.isprintable() else ascii(text)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
