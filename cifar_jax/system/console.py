"""Standard output and error that never stop a run: a reader that has gone (`| head`), a full disk, a
locale without the letters of a path. Only the standard library is imported here.
"""

import io
import os
import sys

# Whether something that was printed has not arrived.
lost = False


def restart_in_utf8() -> None:
    """Starts this program again in Python's UTF-8 mode where the locale has another encoding.

    Names of files are bytes to the system, and Orbax and TensorStore take those for UTF-8.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def never_fails() -> None:
    """Replaces standard output and error by such as take everything; `lost` says if some is gone."""
    # A file that is opened later would take the number of one that is closed, and be printed into.
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = _stream(1, sys.stdout)
    sys.stderr = _stream(2, sys.stderr)
    sys.unraisablehook = _tell_of_what_matters


def _tell_of_what_matters(what) -> None:
    """`sys.unraisablehook`: where no caller is left to raise to.

    When a disk is full, some of TensorStore's writes end after the save has failed and been told of,
    and complain, each with a stack trace, that nobody waits for them.
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
