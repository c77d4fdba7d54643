"""Settings of the C library's memory allocator on Linux, which reads them when a program starts.

Huge pages: XLA allocates memory anew for every dispatch. With pages of 4 KiB, the system spends up to a
quarter of the training time on that (MobileNetV2 at batch size 128: 420,000 pages per dispatch). One arena:
memory freed after compilation is reused, which saves 100 MiB for ResNet-18.
"""

import contextlib
import multiprocessing
import os
import sys

SETTINGS = "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"


def restart_with_settings() -> None:
    """Restarts this program, in the same process, with `SETTINGS`.

    Returns without doing so if it has been done, if the user has set GLIBC_TUNABLES, in a forked
    process, if the C library is not glibc, and if the system does not start the interpreter again.
    """
    forked = multiprocessing.parent_process() is not None
    if os.environ.get("GLIBC_TUNABLES") or forked or not _is_glibc():
        return
    os.environ["GLIBC_TUNABLES"] = SETTINGS
    with contextlib.suppress(OSError):
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _is_glibc() -> bool:
    try:
        return "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (AttributeError, ValueError):  # not Linux, or another C library
        return False
