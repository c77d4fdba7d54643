"""Trained networks that come along: NAME.safetensors, and beside it its card, NAME.md."""

import os
from pathlib import Path

_FOLDER = Path(__file__).parent
_SUFFIX = ".safetensors"

# What predicts where nothing else is named.
DEFAULT = "resnet20_v2"


def names() -> list[str]:
    """Of all of them."""
    return sorted(path.stem for path in _FOLDER.glob(f"*{_SUFFIX}"))


def file_of(name: str) -> str:
    """The path of the weights of one of `names`."""
    return str(_FOLDER / f"{name}{_SUFFIX}")


def resolve(path: str) -> str:
    """The file of a network that comes along, for its name; any other path as it is.

    A file or folder that has the name of one is meant itself.
    """
    return path if os.path.exists(path) or path not in names() else file_of(path)
