"""The lock of a workdir: only one run at a time may use it.

It is the system's lock on a file in the workdir. The system releases it when the process ends, however it
ends, so nobody ever has to clear a stale lock.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time

from cifar_jax.errors import UserError
from cifar_jax.runtime import parallel
from cifar_jax.system import console, files

NAME = ".lock"
# The errors of file systems without locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


class Lock:
    """The lock of a workdir. The main process of a run holds it. Use it in a `with`."""

    def __init__(self, workdir: str):
        self._workdir = workdir
        self._path = os.path.join(workdir, NAME)
        self._descriptor = -1

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.release()

    def acquire(self) -> None:
        """Takes the lock, unless this process has it already or the folder does not exist yet.

        Also deletes temporary files of killed runs.

        Raises:
          UserError: another run holds the lock, or the folder cannot be written to.
        """
        if self._descriptor >= 0 or not os.path.isdir(self._workdir) or not parallel.is_main():
            return
        try:
            descriptor = _open_locked(self._path, self._workdir)
            # The previous holder may have deleted the file just before this process locked it.
            while not _is_at(descriptor, self._path):
                os.close(descriptor)
                descriptor = _open_locked(self._path, self._workdir)
            self._descriptor = descriptor
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
            files.remove_leftovers(self._workdir)
        except OSError as error:
            raise UserError(f"cannot write in {self._workdir}: {files.reason(error)}") from None

    def check(self) -> None:
        """Raises UserError if the folder is gone or is no longer the one that was locked."""
        if self._descriptor >= 0 and not _is_at(self._descriptor, self._path):
            raise UserError(
                f"{self._workdir} is gone (deleted, moved, or its disk is disconnected): training "
                "stopped; once it is back, run the same command to resume from its last checkpoint"
            )

    def release(self) -> None:
        """Releases the lock and deletes its file."""
        if self._descriptor < 0:
            return
        # Delete first, while no other run can have locked the file.
        if _is_at(self._descriptor, self._path):
            with contextlib.suppress(OSError):
                os.unlink(self._path)
        os.close(self._descriptor)
        self._descriptor = -1


def _open_locked(path: str, workdir: str) -> int:
    """Opens and locks a file; returns its descriptor. UserError if another process holds the lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        holder = _read(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except OSError as error:
            if error.errno not in (*_NO_LOCKS, errno.EWOULDBLOCK, errno.EACCES):
                raise
            if error.errno in _NO_LOCKS and not _may_be_alive(holder):
                return descriptor
            who = "process {pid} on {host}, since {since}".format(**holder) if holder else "another"
            raise UserError(
                f"{workdir} is in use by a run ({who}): wait until it ends, or stop it first"
            ) from None
    except BaseException:
        os.close(descriptor)
        raise


def _read(descriptor: int) -> dict | None:
    """Who wrote the file: {"pid", "host", "since"}; None if it does not say."""
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return {"pid": int(holder["pid"]), "host": str(holder["host"]), "since": holder["since"]}
    except (ValueError, TypeError, KeyError):
        return None


def _may_be_alive(holder: dict | None) -> bool:
    """Whether the process that wrote the file may still run, on a file system without locks."""
    if holder is None:
        return False
    if holder["host"] != socket.gethostname():
        console.warn(
            "this file system has no locks: make sure that no run is still alive on "
            f"{holder['host']} (process {holder['pid']}) in the same workdir"
        )
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return holder["pid"] != os.getpid()


def _is_at(descriptor: int, path: str) -> bool:
    """Whether an open file is still the one at its path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False
