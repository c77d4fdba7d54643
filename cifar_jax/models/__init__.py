"""The registry of networks: a name and options in, a Flax Linen module out.

Every network maps float images [batch, height, width, 3], normalised, to float32 logits
[batch, num_classes]: `model.apply(variables, images, train=False)`. Variables are `params` and,
where there is batch norm, `batch_stats`; all are float32. Training needs
`mutable=["batch_stats"]` and `rngs={"dropout": key}`, the same key on every device. The last dense
layer, the only one whose shape depends on the number of classes, is called `HEAD` in each.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable

import flax.linen as nn
import jax.numpy as jnp

from cifar_jax import layers
from cifar_jax.errors import UserError
from cifar_jax.models import cnn, linear, mlp, mobilenet_v2, resnet

HEAD = "head"

# Name -> a module class, or a partial of one that leaves only the options of `OPTIONS` open.
MODELS: dict[str, Callable[..., nn.Module]] = {
    "linear": linear.Linear,
    "mlp": mlp.MLP,
    "lenet": cnn.LeNet,
    "cnn": cnn.CNN,
    **{
        f"resnet{depth}_v{version}": resnet.cifar_resnet(depth, version)
        for version in (1, 2)
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "mobilenet_v2": mobilenet_v2.MobileNetV2,
}

# Every option that any network has; what each takes is in the docstring of its class.
OPTIONS = (
    "hidden_sizes",
    "activation",
    "batch_norm",
    "dropout",
    "width",
    "stem",
    "downsample",
    "remat",
)

# float64 is for tests, and needs jax_enable_x64.
DTYPES = ("float32", "bfloat16", "float64")

_CHOICES = {
    "activation": tuple(layers.ACTIVATIONS),
    "stem": ("cifar", "imagenet"),
    "downsample": ("stride", "max_pool"),
}


def create_model(
    name: str,
    num_classes: int,
    *,
    dtype: str = "float32",
    axis_name: str | None = None,
    sync_batch_norm: bool = True,
    **options,
) -> nn.Module:
    """The network called `name`, as described at the top of this module.

    `dtype` is that of the computation. `axis_name` is the mapped axis of devices that training
    runs under, None where there is none; over it batch norm is synchronised (unless
    `sync_batch_norm` is False) and dropout knows an example's place in the global batch. Options
    are those of `model_options(name)`; one that is None has the network's own default.
    Raises UserError for a name, an option or a value that does not exist, saying what does.
    """
    entry = _entry(name)
    _check_choice("dtype", str(dtype), DTYPES)
    options = {key: value for key, value in options.items() if value is not None}
    for key in options:
        if key not in model_options(name):
            raise UserError(_unknown_option(name, key))
        options[key] = _checked(key, options[key])
    mapped = {"axis_name": axis_name, "sync_batch_norm": sync_batch_norm}
    fields = _field_names(entry)
    mapped = {key: value for key, value in mapped.items() if key in fields}
    return entry(num_classes=num_classes, dtype=jnp.dtype(dtype), **mapped, **options)


def model_options(name: str) -> tuple[str, ...]:
    """The names of the options that the network takes, out of `OPTIONS`."""
    entry = _entry(name)
    fixed = getattr(entry, "keywords", {})
    fields = _field_names(entry)
    return tuple(key for key in OPTIONS if key in fields and key not in fixed)


def _entry(name: str) -> Callable[..., nn.Module]:
    if name not in MODELS:
        raise UserError(f'there is no model "{name}"{_nearest(name, MODELS)}; {_listed(MODELS)}')
    return MODELS[name]


def _field_names(entry: Callable[..., nn.Module]) -> set[str]:
    return {field.name for field in dataclasses.fields(getattr(entry, "func", entry))}


def _unknown_option(name: str, key: str) -> str:
    options = model_options(name)
    if not options:
        return f'the model "{name}" has no option "{key}"; it takes none'
    return f'the model "{name}" has no option "{key}"{_nearest(key, options)}; {_listed(options)}'


def _checked(key: str, value):
    """The value of an option as the module wants it; UserError where it makes no network."""
    if key in _CHOICES:
        _check_choice(key, value, _CHOICES[key])
    elif key == "hidden_sizes":
        # A tuple, since modules must be hashable; int() also takes NumPy's integers.
        sizes = (value,) if isinstance(value, int) else tuple(value)
        if any(int(size) != size or size < 1 for size in sizes):
            raise UserError(f"model.hidden_sizes must be whole numbers of 1 or more, not {value}")
        return tuple(int(size) for size in sizes)
    elif key == "dropout" and not 0.0 <= value < 1.0:
        raise UserError(f"model.dropout is a probability of at least 0 and below 1, not {value}")
    elif key == "width" and not 0.0 < value < math.inf:
        raise UserError(f"model.width must be a number above 0, not {value}")
    return value


def _check_choice(key: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise UserError(f'model.{key} "{value}" is none of: {", ".join(choices)}')


def _nearest(word: str, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(words), n=1)
    return f', did you mean "{close[0]}"?' if close else ""


def _listed(words: Iterable[str]) -> str:
    return f"there are: {', '.join(words)}"
