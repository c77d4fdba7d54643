"""Settings of the C library's allocator on Linux, which it takes from a program's environment at its start.

Huge pages: XLA takes the memory of every dispatch anew, and in pages of 4 KiB the system spends up to a
quarter of the time of the steps on handing it out (MobileNetV2 at batch 128: 420,000 pages a dispatch).
One arena: what compiling leaves behind is used again, 100 MiB less for ResNet-18.
"""

import multiprocessing
import os
import sys

SETTINGS = "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"


def restart_with_settings() -> None:
    """Starts this program again, in the same process, with `SETTINGS`.

    Returns where that has been done, where the user has settings, and where there is no such library.
    """
    forked = multiprocessing.parent_process() is not None
    if "GLIBC_TUNABLES" in os.environ or forked or not _is_glibc():
        return
    os.environ["GLIBC_TUNABLES"] = SETTINGS
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _is_glibc() -> bool:
    try:
        return "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (AttributeError, ValueError):  # not Linux, or another C library
        return False
