"""Checks of what users give to the functions of `import cifar_jax`."""

import os

import numpy as np
from ml_collections import ConfigDict

from cifar_jax import config as config_lib
from cifar_jax.errors import UserError


def path(value, what: str, may_be_empty: bool = False) -> str:
    """A path as text, in which "~" is replaced as in a shell; `what` names it in messages.

    Raises:
      UserError: it is neither a text nor a path object of one, is empty, or has a null byte.
    """
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or "\0" in text or not (text or may_be_empty):
        raise UserError(
            f"{what} is {config_lib.shown(value)}, but takes a path: a text that is not empty and has no "
            "null bytes, or a path object"
        )
    return os.path.expanduser(text)


def check_config(value) -> None:
    """Raises UserError unless it is a config."""
    if not isinstance(value, ConfigDict):
        raise UserError(
            f"config is {config_lib.shown(value)}, but takes a config, as cifar_jax.recipe returns it"
        )


def check_count(value, what: str) -> None:
    """Raises UserError unless it is a whole number of at least 1; `what` names it."""
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_whole or value < 1:
        raise UserError(
            f"{what} is {config_lib.shown(value)}, but takes a whole number of at least 1"
        )
