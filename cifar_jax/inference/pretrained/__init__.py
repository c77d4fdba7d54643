"""The bundled networks: weights in NAME.safetensors, and their card in NAME.md."""

import os
from pathlib import Path

_FOLDER = Path(__file__).parent
_SUFFIX = ".safetensors"

# The network that predicts if no other is named.
DEFAULT = "resnet20_v2"


def names() -> list[str]:
    """The names of all bundled networks."""
    return sorted(path.stem for path in _FOLDER.glob(f"*{_SUFFIX}"))


def file_of(name: str) -> str:
    """The path of the weights of a bundled network."""
    return str(_FOLDER / f"{name}{_SUFFIX}")


def resolve(path: str) -> str:
    """The weights file of a bundled network, for its name; any other path unchanged.

    An existing file or folder of that name takes precedence.
    """
    return path if os.path.exists(path) or path not in names() else file_of(path)
