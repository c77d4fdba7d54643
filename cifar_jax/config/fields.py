"""The kinds of fields a config may have, and the check of a single value."""

import dataclasses
import math
import os
from typing import Any

import numpy as np
from ml_collections import ConfigDict, config_dict

from cifar_jax.config.words import nearest, shown

# Steps and examples are counted in int32, and numbers are computed with in float32.
COUNT = 2**31 - 1
FINITE = float(np.finfo(np.float32).max)
TINY = float(np.finfo(np.float32).tiny)
LARGEST_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Field:
    """What one field of a config may be.

    Attributes:
      default: its value where a recipe does not set it; None if it is unset then.
      kind: bool, int, float, str or tuple (of finite numbers).
      choices: the only texts it may be; () if there is no such list.
      low, high: inclusive bounds of a number; None if it has none.
      below: a bound that the number must not reach, in float32; None if it has none.
      is_path: whether a text is a path, in which "~" stands for the home folder.
    """

    default: Any
    kind: type
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    below: float | None = None
    is_path: bool = False


def switch(default: bool) -> Field:
    """True or False."""
    return Field(default, bool)


def text(default: str) -> Field:
    """Any text; other places check what it names."""
    return Field(default, str)


def path(default: str) -> Field:
    """A text that is a path, or a name that may stand for one."""
    return Field(default, str, is_path=True)


def choice(*choices: str) -> Field:
    """One of these texts. The first is the default."""
    return Field(choices[0], str, choices=choices)


def whole(default: int, low: int, high: int = COUNT) -> Field:
    """A whole number from `low` to `high`."""
    return Field(default, int, low=low, high=high)


def number(default: float, low: float, high: float = FINITE, below: float | None = None) -> Field:
    """A finite number from `low` to `high`, or to just under `below`."""
    return Field(default, float, low=low, high=high if below is None else below, below=below)


def numbers(default: tuple) -> Field:
    """Any number of finite numbers, as (1, 2)."""
    return Field(default, tuple)


def unset(kind: type) -> Field:
    """A field without a value unless a recipe sets it; other places check that value."""
    return Field(None, kind)


def to_config(fields: dict[str, Field]) -> ConfigDict:
    """The defaults of {"optimizer.name": Field, ...} as a ConfigDict, with a group for each prefix."""
    config = ConfigDict()
    for name, field in fields.items():
        group, *rest = name.split(".")
        owner = config
        if rest:
            if group not in config:
                config[group] = ConfigDict()
            owner, (group,) = config[group], rest
        unset_value = config_dict.placeholder(field.kind)
        owner[group] = unset_value if field.default is None else field.default
    return config


def expand_home(config: ConfigDict, fields: dict[str, Field]) -> None:
    """Replaces "~" at the start of every field that is a path, as a shell does; changes `config`."""
    for name, field in fields.items():
        *groups, last = name.split(".")
        owner = config
        for group in groups:
            owner = owner.get(group) if isinstance(owner, ConfigDict) else None
        value = owner.get(last) if field.is_path and isinstance(owner, ConfigDict) else None
        if isinstance(value, str):
            owner[last] = os.path.expanduser(value)


def type_error(value, kind: type) -> str:
    """In words, what a field of a type takes; empty if the value is of that type."""
    if kind is tuple:
        fits = isinstance(value, tuple | list) and all(map(_is_number, value))
        return "" if fits else "finite numbers, as in (1, 2)"
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "a number"
        # `bounds_error` explains NaN and infinity.
        return f"numbers up to {FINITE:g}" if FINITE < abs(value) < math.inf else ""
    if kind is str and isinstance(value, str) and "\0" in value:
        return "a text without null bytes"
    if isinstance(value, bool) == (kind is bool) and isinstance(value, kind):
        return ""
    return {int: "a whole number", bool: "True or False", str: "a text"}[kind]


def _is_number(value) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= FINITE  # False for NaN


def choice_error(name: str, value: str, field: Field) -> str:
    """In words, why the value is none of the field's choices; empty if it is one."""
    if not field.choices or value in field.choices:
        return ""
    hint = nearest(value, field.choices)
    return f"{name} is {shown(value)}, but takes one of {', '.join(field.choices)}{hint}"


def bounds_error(name: str, value: float, field: Field) -> str:
    """In words, why the value is outside the field's bounds; empty if it is inside."""
    low, high = field.low, field.high
    if low is None:
        return ""
    bound = f"between {low} and {high}"
    if high in (COUNT, FINITE):
        bound = f"at most {high:,}" if value > high else f"at least {low}"
    if value in (math.inf, -math.inf):
        return f"{name} is {value}, but must be finite"
    if not low <= value <= high:  # also true of NaN
        return f"{name} is {shown(value)}, but must be {bound}"
    if field.below is not None and np.float32(value) == field.below:
        return f"{name} is {value}, but must be {bound}, and not {field.below} itself"
    return ""
