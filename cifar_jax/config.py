"""What a config field may be: mistakes of a config are found here, before anything is loaded."""

import difflib
import itertools
import json
import math

from ml_collections import ConfigDict

from cifar_jax import models
from cifar_jax.errors import UserError

CHOICES = {
    "dataset.labels": ("fine", "coarse"),
    "model.dtype": ("float32", "bfloat16"),
    "optimizer.name": ("sgd", "adam", "adamw"),
    "lr_schedule.name": ("step", "constant", "cosine", "linear", "one_cycle"),
}

# Inclusive bounds.
RANGES = {
    "seed": (0, 2**32 - 1),
    "num_epochs": (1, math.inf),
    "batch_size": (1, math.inf),
    "eval_batch_size": (1, math.inf),
    "steps_per_dispatch": (0, math.inf),
    "checkpoint_minutes": (0, math.inf),
    "dataset.image_size": (1, 1024),
    "dataset.train_examples": (0, math.inf),
    "dataset.validation_examples": (0, math.inf),
    "augment.crop_padding": (0, 1024),
    "augment.cutout": (0, 1024),
    "augment.mixup": (0, math.inf),
    "label_smoothing": (0, 1),
    "ema_decay": (0, 1),
    "optimizer.momentum": (0, 1),
    "optimizer.beta1": (0, 1),
    "optimizer.beta2": (0, 1),
    "optimizer.epsilon": (0, math.inf),
    "optimizer.weight_decay": (0, math.inf),
    "optimizer.clip_norm": (0, math.inf),
    "lr_schedule.learning_rate": (0, math.inf),
    "lr_schedule.factor": (0, math.inf),
    "lr_schedule.warmup_epochs": (0, math.inf),
    "lr_schedule.final_fraction": (0, 1),
}

# The bound that the field must not reach: Adam would divide by zero.
EXCLUDED = {"optimizer.beta1": 1, "optimizer.beta2": 1, "optimizer.epsilon": 0}

# Where and how a run works, not what it computes: these may differ when a run is resumed.
NOT_PART_OF_THE_RECIPE = (
    "dataset.data_dir",
    "dataset.archive",
    "dataset.cache_dir",
    "steps_per_dispatch",
    "checkpoint_minutes",
    "profile",
)


def flatten(config: ConfigDict) -> dict:
    """The fields as {"optimizer.name": "sgd", ...}, with lists for tuples as JSON has them."""
    flat = {}

    def visit(prefix, fields):
        for name, value in fields.items():
            if isinstance(value, dict):
                visit(f"{prefix}{name}.", value)
            else:
                flat[prefix + name] = value

    visit("", json.loads(to_json(config)))
    return flat


def to_json(config: ConfigDict) -> str:
    """The resolved config as JSON that `from_json` reads."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def from_json(text: str, default: ConfigDict) -> ConfigDict:
    """A config of the fields of `default` with the values in `text`.

    Raises:
      UserError: the text is not a config, or names a field that there is not.
    """
    config = ConfigDict(default)
    try:
        with config.unlocked():
            _update(config, json.loads(text))
    except (ValueError, TypeError) as error:
        raise UserError(f"not a config of this version: {error}") from None
    return config


def _update(config, values):
    if not isinstance(values, dict):
        raise ValueError(f"{values!r} where a group of fields should be")
    for name, value in values.items():
        if name not in config:
            raise ValueError(f"there is no field {name!r}{nearest(name, config)}")
        if isinstance(config[name], ConfigDict):
            _update(config[name], value)
        else:
            config[name] = tuple(value) if isinstance(value, list) else value


def recipe(config: ConfigDict) -> dict:
    """The flat fields that decide what a run computes."""
    fields = flatten(config)
    return {name: fields[name] for name in fields if name not in NOT_PART_OF_THE_RECIPE}


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """The fields in which two recipes differ, as "name: old -> new"."""
    old, new = recipe(old), recipe(new)
    return [
        f"{name}: {old.get(name)} -> {new.get(name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def model_options(config: ConfigDict) -> dict:
    """The keyword arguments of config.model that are set, without the name."""
    return {k: v for k, v in config.model.items() if k != "name" and v is not None}


def nearest(name: str, names) -> str:
    """ "; did you mean 'x'?" for a misspelt name, or nothing."""
    found = difflib.get_close_matches(str(name), list(names), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def validate(config: ConfigDict, default: ConfigDict) -> None:
    """Raises UserError with a line for each field that is wrong.

    Args:
      config: the recipe, with what the command line changes.
      default: configs/default.py, for the fields that there are and their types.
    """
    # What is said about the values takes for granted that the fields are there.
    errors = _field_errors(config, default)
    if not errors:
        flat = flatten(config)
        errors = (
            _choice_errors(flat)
            + _range_errors(flat)
            + _schedule_errors(flat)
            + _dataset_errors(flat)
            + _model_errors(config)
        )
    if errors:
        raise UserError("\n".join(f"config: {error}" for error in errors))


def _field_errors(config, default, prefix="") -> list[str]:
    """Fields that there are not, that are missing or of another type."""
    if not isinstance(config, ConfigDict):
        return [f"{prefix.rstrip('.')} is {config!r}, but is a group of fields"]
    errors = []
    for name in config:
        if name not in default:
            errors.append(f"there is no field {prefix}{name}{nearest(name, default)}")
    for name in default:
        if name not in config:
            errors.append(f"{prefix}{name} is missing: start from configs/default.py")
        elif isinstance(default[name], ConfigDict):
            errors += _field_errors(config[name], default[name], f"{prefix}{name}.")
        elif config[name] is not None or default[name] is not None:
            takes = _mismatch(config[name], default.get_type(name))
            if takes:
                errors.append(f"{prefix}{name} is {config[name]!r}, but takes {takes}")
    return errors


def _mismatch(value, kind: type) -> str:
    """What a field of a type takes, in words, or nothing if the value is such a thing."""
    if kind is tuple:
        fits = isinstance(value, tuple | list) and all(map(_is_number, value))
        return "" if fits else "finite numbers, as in (1, 2)"
    if kind is float:
        # NaN and infinity have their own words, where the bounds are.
        return "" if isinstance(value, int | float) and not isinstance(value, bool) else "a number"
    if isinstance(value, bool) == (kind is bool) and isinstance(value, kind):
        return ""
    return {int: "a whole number", bool: "True or False", str: "a text"}[kind]


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _choice_errors(flat) -> list[str]:
    errors = []
    for name, choices in CHOICES.items():
        if flat[name] not in choices:
            hint = nearest(flat[name], choices)
            errors.append(f"{name} is {flat[name]!r}, but takes one of {', '.join(choices)}{hint}")
    return errors


def _range_errors(flat) -> list[str]:
    errors = []
    for name, (low, high) in RANGES.items():
        bound = f"at least {low}" if high == math.inf else f"between {low} and {high}"
        if not low <= flat[name] <= high:  # Also true of NaN.
            errors.append(f"{name} is {flat[name]}, but must be {bound}")
        elif math.isinf(flat[name]):
            errors.append(f"{name} must be finite")
        elif flat[name] == EXCLUDED.get(name):
            errors.append(f"{name} must be {bound}, but not {flat[name]} itself")
    return errors


def _model_errors(config) -> list[str]:
    try:
        models.create_model(config.model.name, 10, **model_options(config))
    except UserError as error:
        return [f"model: {error}"]
    return []


def _schedule_errors(flat) -> list[str]:
    boundaries = flat["lr_schedule.boundaries"]
    errors = []
    if any(epoch <= 0 for epoch in boundaries):
        errors.append(f"lr_schedule.boundaries {boundaries} must be positive numbers of epochs")
    elif any(a >= b for a, b in itertools.pairwise(boundaries)):
        errors.append(f"lr_schedule.boundaries {boundaries} must increase")
    if flat["lr_schedule.warmup_epochs"] > flat["num_epochs"]:
        errors.append("lr_schedule.warmup_epochs is longer than num_epochs")
    return errors


def _dataset_errors(flat) -> list[str]:
    errors = []
    for name in ("dataset.mean", "dataset.std"):
        value = flat[name]
        if value is not None and len(value) != 3:
            errors.append(f"{name} is {value}, but takes three numbers, one per channel")
        elif value is not None and name == "dataset.std" and min(value) <= 0:
            errors.append(f"{name} is {value}, but must be positive")
    if flat["dataset.labels"] == "coarse" and flat["dataset.name"] != "cifar100":
        errors.append("dataset.labels is 'coarse', which only cifar100 has")
    if flat["augment.cutout"] > flat["dataset.image_size"]:
        errors.append("augment.cutout is larger than dataset.image_size")
    return errors
