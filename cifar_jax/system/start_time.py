"""When this process was started, so that a run can say what its start took, imports and all."""

import os
import time

_IMPORTED = time.monotonic()


def seconds_since_start() -> float:
    """Seconds since the process was started; where the system does not say, since the first import."""
    try:
        with open("/proc/self/stat", encoding="utf-8") as file:
            # The 22nd field; the second, in brackets, may hold spaces.
            ticks = int(file.read().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return time.monotonic() - _IMPORTED
