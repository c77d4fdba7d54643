"""Standard output and standard error that never stop a run.

Without this, a closed pipe (`| head`), a full disk or a locale that cannot encode a path would. Imports only
the standard library.
"""

import contextlib
import io
import os
import sys

# Whether any output was lost.
lost = False


def restart_in_utf8() -> None:
    """Restarts this program in Python's UTF-8 mode if the locale has another encoding.

    File names are bytes to the system. Orbax and TensorStore expect them to be UTF-8.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        with contextlib.suppress(OSError):  # the system may not start the interpreter again
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def warn(line: str) -> None:
    """Prints a line that users should know of, on standard error."""
    print(f"warning: {line}", file=sys.stderr, flush=True)


def never_fails() -> None:
    """Replaces standard output and error by streams whose writes never fail. `lost` tells if any did."""
    # If one of these descriptors is closed, a file opened later would get its number and our output.
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = _stream(1, sys.stdout)
    sys.stderr = _stream(2, sys.stderr)
    sys.unraisablehook = _tell_of_what_matters


def _tell_of_what_matters(what) -> None:
    """`sys.unraisablehook`, for errors that no caller can catch.

    On a full disk, some of TensorStore's writes end after the save has failed and been reported. Each
    would print a stack trace because nothing waits for it.
    """
    if str(what.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(what)


class _Loose(io.FileIO):
    """A file whose `write` always succeeds."""

    def write(self, data) -> int:
        global lost
        try:
            return super().write(data)
        except OSError:
            lost = True
            return len(data)


def _stream(descriptor: int, old) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(_Loose(descriptor, "w", closefd=False)),
        encoding=getattr(old, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=True,
    )
