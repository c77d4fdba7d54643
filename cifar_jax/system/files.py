"""Files that appear whole or not at all. Everything that a user reads is written through here: a
reader, or a restart after a kill at any moment, finds the old file or the new one, never a part.
"""

import contextlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from cifar_jax.errors import UserError

# What `atomic_path` calls its temporary files.
_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[str]:
    """The path of an empty temporary file beside `path`, which replaces `path` when the block ends.

    An exception inside the block leaves `path` as it was and no temporary file behind. A symbolic
    link stays one: the file that it points at is replaced. The file and its name are on the disk
    (fsync) when the block has ended. What the system refuses (no such folder, no permission, disk
    full) raises UserError.
    """
    target = os.path.realpath(path)
    # A folder is refused by the system, but these it would replace.
    if os.path.exists(target) and not (os.path.isfile(target) or os.path.isdir(target)):
        raise UserError(f"cannot write {shown(path)}: it is a pipe, socket or device")
    folder, name = os.path.split(target)
    # Hidden and with a random part: no one takes it for a result and two writers never share it.
    # Cut to leave room for it in the 255 bytes that file systems allow for a name.
    temporary = os.path.join(folder, f".{name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        # Not tempfile: its files are readable by their owner only, whatever the umask says.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        # A folder that cannot be synced (some network file systems) still holds the new file.
        with contextlib.suppress(OSError):
            _sync(folder)
    except OSError as error:
        raise UserError(f"cannot write {shown(path)}: {reason(error)}") from error


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Replaces the file at `path` by one that holds `data`; UserError as in `atomic_path`."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


def remove_leftovers(folder: str | os.PathLike, seconds: float = 0.0) -> None:
    """Deletes the temporary files of writers that were killed, if `seconds` old.

    Those of other writers at work are of the same kind: it takes a lock, or time, to be sure.
    """
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            old = not seconds or time.time() - entry.stat().st_mtime > seconds
            if old and _LEFTOVER.fullmatch(entry.name):
                os.unlink(entry)


@contextlib.contextmanager
def refused(what: str) -> Iterator[None]:
    """Turns what the system refuses into a UserError that begins with `what`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{what}: {reason(error)}") from error


def cache_folder(folder: str = "") -> Path:
    """Where what can be made again is kept: `folder`, else `cifar_jax` in the user's cache folder.

    The user's is XDG_CACHE_HOME, else ~/.cache. For a user without a home it is a folder that cannot
    be made, which costs a warning as any such folder does.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        return Path(folder or base / "cifar_jax").expanduser()
    except RuntimeError:
        return Path(os.devnull, "no home folder")


def check_regular_file(path: str | os.PathLike) -> None:
    """Raises UserError unless `path` is a file with something in it; never blocks on a pipe."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte in it
        raise UserError(f"{shown(path)}: {reason(error)}") from error
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{shown(path)} is a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{shown(path)} is a pipe, socket or device, not a file")
    if status.st_size == 0:
        raise UserError(f"{shown(path)} is empty (0 bytes)")


def reason(error: Exception) -> str:
    """What went wrong as one short line: the system's own words without number and path."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(words.split())


def shown(path: str | os.PathLike) -> str:
    """`path` as text for one line: a name with line breaks or undecodable bytes is quoted."""
    text = os.fsdecode(path)
    return text if text.isprintable() else ascii(text)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
