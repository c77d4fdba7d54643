"""When this process started, so that a run can report how long its start took, imports included."""

import os
import time

_IMPORTED = time.monotonic()
# When a run began that is not the first work of its process.
_restarted = None


def restart() -> None:
    """Counts from now on, instead of from the start of the process."""
    global _restarted
    _restarted = time.monotonic()


def seconds_since_start() -> float:
    """Seconds since the last `restart`, or else since the process started.

    If the system does not say when that was: since this module was imported.
    """
    if _restarted is not None:
        return time.monotonic() - _restarted
    try:
        with open("/proc/self/stat", encoding="utf-8") as file:
            # Field 22; split after field 2, which is in brackets and may contain spaces.
            ticks = int(file.read().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return time.monotonic() - _IMPORTED
