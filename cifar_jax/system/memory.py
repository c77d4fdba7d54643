"""How much memory the machine has, to refuse early what cannot fit."""

import os


def of_this_machine() -> int | None:
    """Bytes of main memory; None if the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not POSIX
        return None


def in_words(size: int) -> str:
    """A number of bytes in words: "24 GiB", "1.5 GiB"."""
    gibibytes = size / 2**30
    return f"{gibibytes:,.0f} GiB" if gibibytes >= 10 else f"{gibibytes:.1f} GiB"
