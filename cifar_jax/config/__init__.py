"""Configs: what a field may be, which fields contradict each other, and how a config is stored.

`validate` reports every mistake before anything is loaded. The fields themselves are declared in
configs/default.py, with the functions of `fields` (`whole`, `number`, `choice` and so on).
"""

from cifar_jax.config.fields import (
    COUNT,
    FINITE,
    LARGEST_SEED,
    TINY,
    Field,
    choice,
    expand_home,
    number,
    numbers,
    path,
    switch,
    text,
    to_config,
    unset,
    whole,
)
from cifar_jax.config.recipe import (
    NOT_PART_OF_THE_RECIPE,
    differences,
    flatten,
    model_options,
    recipe,
)
from cifar_jax.config.stored import FORMAT, check_format, from_json, to_json
from cifar_jax.config.validation import validate
from cifar_jax.config.words import nearest, shown

__all__ = [
    "COUNT",
    "FINITE",
    "FORMAT",
    "LARGEST_SEED",
    "NOT_PART_OF_THE_RECIPE",
    "TINY",
    "Field",
    "check_format",
    "choice",
    "differences",
    "expand_home",
    "flatten",
    "from_json",
    "model_options",
    "nearest",
    "number",
    "numbers",
    "path",
    "recipe",
    "shown",
    "switch",
    "text",
    "to_config",
    "to_json",
    "unset",
    "validate",
    "whole",
]
