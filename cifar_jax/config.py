"""What a config field may be: mistakes of a config are found here, before anything is loaded."""

import copy
import difflib
import itertools
import json
import math
from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from cifar_jax import augment, memory, models, weights
from cifar_jax.errors import UserError

# Of a workdir's config.json and report.json; raise it when an older program would misread them.
FORMAT = 1

CHOICES = {
    "test_time_augmentation": tuple(augment.VIEWS),
    "dataset.labels": ("fine", "coarse"),
    "dataset.broken_pictures": ("refuse", "skip"),
    "model.dtype": ("float32", "bfloat16"),
    "augment.padding_mode": ("constant", "reflect"),
    "optimizer.name": ("sgd", "adam", "adamw", "muon"),
    "lr_schedule.name": ("step", "constant", "cosine", "linear", "one_cycle"),
}

# Steps and examples are counted in int32, and numbers are computed with in float32.
COUNT = 2**31 - 1
FINITE = float(np.finfo(np.float32).max)
TINY = float(np.finfo(np.float32).tiny)

# Inclusive bounds.
RANGES = {
    "seed": (0, 2**32 - 1),
    "num_epochs": (1, COUNT),
    "batch_size": (1, COUNT),
    "eval_every_epochs": (0, COUNT),
    "eval_batch_size": (1, COUNT),
    "steps_per_dispatch": (0, COUNT),
    "checkpoint_minutes": (0, FINITE),
    "dataset.image_size": (1, weights.LARGEST_IMAGE),
    "dataset.test_share": (0, 1),
    "dataset.split_seed": (0, 2**32 - 1),
    "dataset.train_examples": (0, COUNT),
    "dataset.validation_examples": (0, COUNT),
    "augment.crop_padding": (0, 1024),
    "augment.cutout": (0, 1024),
    "augment.mixup": (0, 1000),
    "augment.brightness": (0, 10),
    "augment.contrast": (0, 1),
    "label_smoothing": (0, 1),
    "ema_decay": (0, 1),
    "optimizer.momentum": (0, 1),
    "optimizer.beta1": (0, 1),
    "optimizer.beta2": (0, 1),
    "optimizer.epsilon": (TINY, FINITE),
    "optimizer.weight_decay": (0, FINITE),
    "optimizer.bias_lr_factor": (0, FINITE),
    "optimizer.head_lr_factor": (0, FINITE),
    "optimizer.muon_momentum": (0, 1),
    "optimizer.newton_schulz_steps": (1, 20),
    "optimizer.clip_norm": (0, FINITE),
    "lr_schedule.learning_rate": (0, FINITE),
    "lr_schedule.factor": (0, FINITE),
    "lr_schedule.warmup_epochs": (0, COUNT),
    "lr_schedule.final_fraction": (0, 1),
    "transfer.frozen_epochs": (0, COUNT),
    "transfer.backbone_lr_factor": (0, FINITE),
}

# The bound that the field must not reach, in float32: Adam would divide by zero, labels would say
# nothing, an average would stay where it began.
EXCLUDED = {"label_smoothing": 1, "ema_decay": 1, "optimizer.beta1": 1, "optimizer.beta2": 1}

# Far below, what is drawn from a Beta distribution in float32 is NaN.
LEAST_MIXUP = 1e-6

# Longer tuples would take minutes to compile.
MOST_BOUNDARIES = 1000

# Training images of the sets that everyone knows; what another set has is seen when it is loaded.
TRAIN_IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "digits": 1437}

# Where and how a run works, not what it computes: these may differ when a run is resumed.
NOT_PART_OF_THE_RECIPE = (
    "dataset.data_dir",
    "dataset.archive",
    "dataset.path",
    "dataset.cache_dir",
    "deterministic",
    "test_time_augmentation",
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
                flat[prefix + name] = list(value) if isinstance(value, tuple) else value

    visit("", config.to_dict())
    return flat


def to_json(config: ConfigDict) -> str:
    """The resolved config as JSON that `from_json` reads."""
    return json.dumps({"format": FORMAT, **config.to_dict()}, indent=2) + "\n"


def from_json(text: str, default: ConfigDict) -> ConfigDict:
    """A config of the fields of `default` with the values in `text`.

    Raises:
      UserError: the text is not a config, is of another format, or names a field that there is not.
    """
    config = copy.deepcopy(default)
    try:
        values = json.loads(text)
        check_format(values)
        if isinstance(values, dict):
            values.pop("format", None)
        with config.unlocked():
            _update(config, values)
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"not a config of this version: {error}") from None
    return config


def check_format(values) -> None:
    """Raises UserError where the JSON of a workdir's file has an unknown format version.

    One without a version is from before there were any, and of the first.
    """
    version = values.get("format", FORMAT) if isinstance(values, dict) else FORMAT
    if version != FORMAT or isinstance(version, bool):
        raise UserError(
            f"it has format version {shown(version)}, but this program reads {FORMAT}: use the "
            "program that wrote it, or a newer one"
        )


def _update(config, values):
    if not isinstance(values, dict):
        raise ValueError(f"{shown(values)} where a group of fields should be")
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
    """ "; did you mean 'x'?" for a misspelt name, or nothing.

    Names with dots are also found by what is after the last: "learning_rate" is nearest to
    "lr_schedule.learning_rate".
    """
    by_end = {}
    for candidate in names:
        by_end.setdefault(str(candidate).rpartition(".")[2], str(candidate))
    end = str(name)[:100].rpartition(".")[2]
    found = difflib.get_close_matches(str(name)[:100], [str(x) for x in names], n=1, cutoff=0.75)
    found = found or [by_end[x] for x in difflib.get_close_matches(end, list(by_end), n=1)]
    return f"; did you mean {found[0]!r}?" if found else ""


def shown(value) -> str:
    """A value for a line: as in Python, cut where it is long."""
    try:
        text = repr(value.to_dict() if isinstance(value, ConfigDict) else value)
    except ValueError:  # more digits than Python writes
        text = "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def validate(config: ConfigDict, default: ConfigDict) -> None:
    """Raises UserError with a line for each field that is wrong, all at once.

    Args:
      config: the recipe, with what the command line changes.
      default: configs/default.py, for the fields that there are and their types.
    """
    # A field that is wrong is looked at no further, the others as if it had its default.
    checked = copy.deepcopy(default)  # ConfigDict(default) would share its groups
    errors = _field_errors(config, default, checked)
    flat, defaults = flatten(checked), flatten(default)
    for check in (_choice_errors, _range_errors, _contradictions):
        wrong = {name for names, _ in errors for name in names}
        flat |= {name: defaults[name] for name in wrong & defaults.keys()}
        errors += [(names, words) for names, words in check(flat) if not wrong & {*names}]
    wrong = {name for names, _ in errors for name in names}
    errors += _model_errors(checked, wrong)
    if errors:
        raise UserError("\n".join(f"config: {words}" for _, words in errors))


# Each of the following gives ((names of fields, ...), what is wrong).
Errors = Iterator[tuple[tuple[str, ...], str]]


def _field_errors(config, default, checked, prefix="") -> list:
    """Fields that there are not, that are missing or of another type; fills `checked` with the others."""
    if not isinstance(config, ConfigDict):
        names = tuple(f"{prefix}{name}" for name in default)
        return [(names, f"{prefix.rstrip('.')} is {shown(config)}, but is a group of fields")]
    errors = []
    for name in config:
        if name not in default:
            field = f"{prefix}{name}"
            hint = nearest(field, [f"{prefix}{right}" for right in default])
            errors.append(((field,), f"there is no field {field}{hint}"))
    for name in default:
        field = f"{prefix}{name}"
        if name not in config:
            errors.append(((field,), f"{field} is missing: start from configs/default.py"))
        elif isinstance(default[name], ConfigDict):
            errors += _field_errors(config[name], default[name], checked[name], f"{field}.")
        elif config[name] is not None or default[name] is not None:
            takes = _mismatch(config[name], default.get_type(name))
            if takes:
                errors.append(((field,), f"{field} is {shown(config[name])}, but takes {takes}"))
            else:
                value = config[name]
                checked[name] = tuple(value) if isinstance(value, list) else value
    return errors


def _mismatch(value, kind: type) -> str:
    """What a field of a type takes, in words, or nothing if the value is such a thing."""
    if kind is tuple:
        fits = isinstance(value, tuple | list) and all(map(_is_number, value))
        return "" if fits else "finite numbers, as in (1, 2)"
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "a number"
        # NaN and infinity have their own words, where the bounds are.
        return f"numbers up to {FINITE:g}" if FINITE < abs(value) < math.inf else ""
    if kind is str and isinstance(value, str) and "\0" in value:
        return "a text without null bytes"
    if isinstance(value, bool) == (kind is bool) and isinstance(value, kind):
        return ""
    return {int: "a whole number", bool: "True or False", str: "a text"}[kind]


def _is_number(value) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= FINITE  # False for NaN


def _choice_errors(flat) -> Errors:
    for name, choices in CHOICES.items():
        if flat[name] not in choices:
            hint = nearest(flat[name], choices)
            words = f"{name} is {shown(flat[name])}, but takes one of {', '.join(choices)}{hint}"
            yield (name,), words


def _range_errors(flat) -> Errors:
    for name, (low, high) in RANGES.items():
        value = flat[name]
        bound = f"between {low} and {high}"
        if high in (COUNT, FINITE):
            bound = f"at most {high:,}" if value > high else f"at least {low}"
        if value in (math.inf, -math.inf):
            yield (name,), f"{name} is {value}, but must be finite"
        elif not low <= value <= high:  # Also true of NaN.
            yield (name,), f"{name} is {shown(value)}, but must be {bound}"
        elif name in EXCLUDED and np.float32(value) == EXCLUDED[name]:
            yield (
                (name,),
                f"{name} is {value}, but must be {bound}, and not {EXCLUDED[name]} itself",
            )


def _contradictions(flat) -> Errors:
    """Fields that do not fit together, and tuples that do not fit in themselves."""
    yield from _schedule_errors(flat)
    yield from _dataset_errors(flat)
    for name in ("transfer.frozen_epochs", "transfer.freeze_batch_norm"):
        if flat[name] and not flat["init_from"]:
            yield (
                (name, "init_from"),
                f"{name} is for weights that were trained before: set init_from",
            )
    if flat["augment.alternating_flip"] and not flat["augment.flip"]:
        names = ("augment.alternating_flip", "augment.flip")
        yield names, "augment.alternating_flip is a way to flip: set augment.flip"
    for name in ("optimizer.bias_lr_factor", "optimizer.head_lr_factor"):
        if flat[name] != 1 and flat["optimizer.name"] not in ("sgd", "muon"):
            yield (
                (name, "optimizer.name"),
                f"{name} is for sgd and muon, not {flat['optimizer.name']}",
            )
    if flat["optimizer.name"] == "muon" and flat["init_from"]:
        yield (
            ("optimizer.name", "init_from"),
            "optimizer.name 'muon' gives every convolution kernel a norm of its own, which spoils the "
            "weights of init_from: use sgd, adam or adamw",
        )
    alpha = flat["augment.mixup"]
    if 0 < alpha < LEAST_MIXUP:
        yield (
            ("augment.mixup",),
            f"augment.mixup is {alpha}, but must be 0 or at least {LEAST_MIXUP}",
        )
    for name in ("augment.cutout", "augment.crop_padding"):
        names = (name, "dataset.image_size")
        size = flat["dataset.image_size"]
        if flat[name] > size:
            yield names, f"{name} {flat[name]} is larger than dataset.image_size {size}"


def _schedule_errors(flat) -> Errors:
    # A boundary after the last epoch is right: a run may be made longer.
    boundaries, name = flat["lr_schedule.boundaries"], "lr_schedule.boundaries"
    if len(boundaries) > MOST_BOUNDARIES:
        yield (name,), f"{name} are {len(boundaries)}, but there may be {MOST_BOUNDARIES}"
    elif any(epoch <= 0 for epoch in boundaries):
        yield (name,), f"{name} {shown(boundaries)} must be positive numbers of epochs"
    elif any(a >= b for a, b in itertools.pairwise(boundaries)):
        yield (name,), f"{name} {shown(boundaries)} must increase"
    elif flat["lr_schedule.name"] == "step" and boundaries and flat["lr_schedule.factor"] > 1:
        rate, factor = flat["lr_schedule.learning_rate"], flat["lr_schedule.factor"]
        if rate and math.log(rate) + len(boundaries) * math.log(factor) > math.log(FINITE):
            fields = (name, "lr_schedule.name", "lr_schedule.factor", "lr_schedule.learning_rate")
            yield (
                fields,
                f"lr_schedule.factor {factor:g} at {len(boundaries)} boundaries makes "
                f"lr_schedule.learning_rate {rate:g} infinite",
            )
    if flat["lr_schedule.warmup_epochs"] > flat["num_epochs"]:
        names = ("lr_schedule.warmup_epochs", "num_epochs")
        yield names, "lr_schedule.warmup_epochs is longer than num_epochs"


def _dataset_errors(flat) -> Errors:
    for name in ("dataset.mean", "dataset.std"):
        value = flat[name]
        if value is not None and len(value) != 3:
            yield (name,), f"{name} is {shown(value)}, but takes three numbers, one per channel"
        elif value is not None and name == "dataset.std" and min(value) < TINY:
            yield (name,), f"{name} is {shown(value)}, but must be positive"
    # TFDS has a version after a colon.
    dataset = flat["dataset.name"].partition(":")[0]
    if flat["dataset.labels"] == "coarse" and dataset != "cifar100":
        names = ("dataset.labels", "dataset.name")
        yield names, "dataset.labels is 'coarse', which only cifar100 has"
    names = ("dataset.name", "dataset.path")
    if dataset == "folder" and not flat["dataset.path"]:
        yield names, "dataset.name is 'folder': set dataset.path to the folder of pictures"
    if flat["dataset.path"] and dataset != "folder":
        yield names, f"dataset.path is for dataset.name 'folder', not {shown(dataset)}"
    there = TRAIN_IMAGES.get(dataset, COUNT)
    wanted, cut = flat["dataset.train_examples"], flat["dataset.validation_examples"]
    names = ("dataset.name", "dataset.train_examples", "dataset.validation_examples")
    if wanted + cut > there or cut >= there:
        yield (
            names,
            f"dataset.train_examples {wanted} and dataset.validation_examples {cut} ask for more "
            f"than the {there:,} training images of {dataset}",
        )
    elif flat["batch_size"] > (wanted or there - cut):
        yield (
            ("batch_size", *names),
            f"batch_size {flat['batch_size']} is larger than the training set of "
            f"{wanted or there - cut} examples",
        )


def _model_errors(config, wrong: set[str]) -> list:
    """What is wrong with config.model, and whether there is such a network for images of this size."""
    if wrong & {"model.name"}:
        return []
    options = {k: v for k, v in model_options(config).items() if f"model.{k}" not in wrong}
    mistakes = models.mistakes(config.model.name, **options)
    if mistakes:
        return [(("model",), f"model: {words}") for words in mistakes]
    size, batch_size = config.dataset.image_size, config.batch_size
    is_usual = size == 32 and batch_size > 1 and not {"hidden_sizes", "width"} & {*options}
    if is_usual or wrong & {"dataset.image_size", "batch_size"}:
        return []  # a network that is known to fit; tracing one takes up to half a second
    try:
        count = models.count_parameters(
            models.create_model(config.model.name, 10, **options), size, min(2, batch_size)
        )
    except UserError as error:
        return [(("model",), f"model: {error}")]
    # In float32: the parameters, their gradients and their changes.
    needed, there = 3 * 4 * count, memory.of_this_machine()
    if there and needed > there:
        return [
            (
                ("model",),
                f"model: it has {count:,} parameters; to train them takes more than "
                f"{memory.in_words(needed)}, and this machine has {memory.in_words(there)}",
            )
        ]
    return []
