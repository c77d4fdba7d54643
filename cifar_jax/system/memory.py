"""How much memory there is, to refuse what cannot fit before it is begun."""

import os


def of_this_machine() -> int | None:
    """Bytes of main memory; None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not POSIX
        return None


def in_words(size: int) -> str:
    """A number of bytes, as "24 GiB"."""
    gibibytes = size / 2**30
    return f"{gibibytes:,.0f} GiB" if gibibytes >= 10 else f"{gibibytes:.1f} GiB"
