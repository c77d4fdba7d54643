"""The options of networks: one entry for each, with the check of its value.

A network has an option if its module has a field of that name; the module's docstring says what it does. To
add an option, enter it in `OPTIONS` and declare `model.<name>` in configs/default.py.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from cifar_jax.models.layers import ACTIVATIONS

# A deeper MLP would take minutes to compile; a wider network has more weights than any memory holds.
MOST_LAYERS = 200
WIDEST = 1000
# Strides of the feature maps of a backbone.
FCN_STRIDES = (1, 2, 4, 8, 16, 32)


def wrong_choice(key: str, value, choices: Iterable[str]) -> str:
    """An error message if the value is none of the choices, otherwise ""."""
    if isinstance(value, str) and value in choices:
        return ""
    return f'model.{key} "{str(value)[:60]}" is none of: {", ".join(choices)}'


def _choice(*choices: str) -> Callable[[str, object], str]:
    return lambda key, value: wrong_choice(key, value, choices)


def _switch(key: str, value) -> str:
    return "" if isinstance(value, bool) else f"model.{key} must be True or False, not {value}"


def _hidden_sizes(key: str, value) -> str:
    found = sizes(value)
    if not all(is_count(size) for size in found):
        return f"model.{key} must be whole numbers of 1 or more, not {str(value)[:60]}"
    if len(found) > MOST_LAYERS:
        return f"model.{key} has {len(found)} layers, but at most {MOST_LAYERS} are allowed"
    return ""


def _dropout(key: str, value) -> str:
    if not _is_number(value):
        return f"model.{key} must be a number, not {str(value)[:60]}"
    if not 0.0 <= np.float32(value) < 1.0:
        return f"model.{key} is a probability of at least 0 and below 1, not {value}"
    return ""


def _fcn_stride(key: str, value) -> str:
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if is_whole and value in FCN_STRIDES:
        return ""
    return f"model.{key} is {str(value)[:60]}, but takes one of {', '.join(map(str, FCN_STRIDES))}"


def _width(key: str, value) -> str:
    if not _is_number(value):
        return f"model.{key} must be a number, not {str(value)[:60]}"
    if not 0.0 < value <= WIDEST:
        return f"model.{key} must be a number above 0 and up to {WIDEST}, not {value}"
    return ""


# Name -> check(name, value), which returns an error message, or "" if the value is valid.
OPTIONS: dict[str, Callable[[str, object], str]] = {
    "hidden_sizes": _hidden_sizes,
    "activation": _choice(*ACTIVATIONS),
    "batch_norm": _switch,
    "dropout": _dropout,
    "width": _width,
    "stem": _choice("cifar", "imagenet"),
    "downsample": _choice("stride", "max_pool"),
    "shortcut": _choice("projection", "zero_padding"),
    "remat": _switch,
    "whitening": _switch,
    "fcn_stride": _fcn_stride,
}


def segments(options: Mapping) -> bool:
    """Whether a network with these options gives a class to each pixel, not one to the image."""
    return options.get("fcn_stride") is not None


def field_names(entry: Callable) -> set[str]:
    """The fields of a module class, or of a partial of one."""
    return {field.name for field in dataclasses.fields(getattr(entry, "func", entry))}


def options_of(entry: Callable) -> tuple[str, ...]:
    """The options of a module class, or of a partial of one, without those that the partial fixes."""
    fixed = getattr(entry, "keywords", {})
    fields = field_names(entry)
    return tuple(key for key in OPTIONS if key in fields and key not in fixed)


def sizes(value) -> tuple:
    """The value of `hidden_sizes` as a tuple; a single number is one layer."""
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _is_number(value) -> bool:
    # Larger numbers may not fit a float, and are out of bounds anyway.
    is_real = isinstance(value, int | float | np.integer | np.floating)
    return is_real and not isinstance(value, bool) and abs(value) < 1e30


def is_count(size) -> bool:
    """Whether it is a whole number of 1 or more, also as 8.0."""
    if isinstance(size, bool | np.bool_):
        return False
    try:
        return int(size) == size and 1 <= size < 2**31
    except (TypeError, ValueError, OverflowError):  # a text, NaN, infinity
        return False
