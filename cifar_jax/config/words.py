"""Words for messages about fields: suggestions for misspelt names, and values cut to a line."""

import difflib

from ml_collections import ConfigDict


def nearest(name: str, names) -> str:
    """ "; did you mean 'x'?" for a misspelt name; empty if no name is near.

    The last component of a dotted name counts most: "learning_rate" and "optimizer.learning_rate" are both
    near "lr_schedule.learning_rate", the only name that ends so.
    """
    name, names = str(name)[:100], [str(x) for x in names]
    by_end = {}
    for candidate in names:
        by_end.setdefault(candidate.rpartition(".")[2], candidate)
    end = name.rpartition(".")[2]
    same_end = [candidate for candidate in names if candidate.rpartition(".")[2] == end]
    if len(same_end) == 1:
        return f"; did you mean {same_end[0]!r}?"
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
    found = found or [by_end[x] for x in difflib.get_close_matches(end, list(by_end), n=1)]
    return f"; did you mean {found[0]!r}?" if found else ""


def shown(value) -> str:
    """A value as Python writes it, cut if it is long."""
    try:
        text = repr(value.to_dict() if isinstance(value, ConfigDict) else value)
    except ValueError:  # an integer with more digits than Python prints
        text = "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"
