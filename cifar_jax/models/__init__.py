"""The registry of networks: a name and options in, a Flax Linen module out.

Every network maps float images [batch, height, width, 3], normalised, to float32 logits
[batch, num_classes]: `model.apply(variables, images, train=False)`. Variables are `params` and,
where there is batch norm, `batch_stats`; all are float32. Training needs `rngs={"dropout": key}`, the
same key on every device, and `mutable=["batch_stats"]`, without which batch norm normalises as in
evaluation. A network that whitens (`layers.Whitening`) calls that layer `WHITENING`, and so the option
that asks for it; its kernel is computed from data (`cifar_jax/steps/whitening.py`). The last dense layer, the
only one whose shape depends on the number of classes, is called `HEAD` in each.
"""

import dataclasses
import difflib
from collections.abc import Callable, Iterable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax.errors import UserError
from cifar_jax.models import airbench, cnn, layers, linear, mlp, mobilenet_v2, resnet
from cifar_jax.models.mobilenet_v2 import STAGES

__all__ = [
    "HEAD",
    "MODELS",
    "OPTIONS",
    "STAGES",
    "WHITENING",
    "count_parameters",
    "create_model",
    "mistakes",
    "model_options",
    "size",
]

HEAD = "head"
WHITENING = "whitening"

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
    "airbench94": airbench.Airbench,
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
    "whitening",
)

# float64 is for tests, and needs jax_enable_x64.
DTYPES = ("float32", "bfloat16", "float64")

# A deeper MLP would take minutes to compile, a wider network has more weights than any memory holds.
MOST_LAYERS = 200
WIDEST = 1000

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
    wrong = mistakes(name, dtype, **options)
    if wrong:
        raise UserError("; ".join(wrong))
    entry = _entry(name)
    options = {key: value for key, value in options.items() if value is not None}
    if "hidden_sizes" in options:
        # A tuple, since modules must be hashable; int() also takes NumPy's integers.
        options["hidden_sizes"] = tuple(map(int, _sizes(options["hidden_sizes"])))
    mapped = {"axis_name": axis_name, "sync_batch_norm": sync_batch_norm}
    fields = _field_names(entry)
    mapped = {key: value for key, value in mapped.items() if key in fields}
    return entry(num_classes=num_classes, dtype=jnp.dtype(dtype), **mapped, **options)


def mistakes(name: str, dtype: str = "float32", **options) -> list[str]:
    """A line on each thing for which `create_model` has no such network; [] if it has."""
    try:
        known = model_options(name)
    except UserError as error:
        return [str(error)]
    words = [_wrong_choice("dtype", str(dtype), DTYPES)]
    for key, value in options.items():
        if value is not None:
            words.append(_wrong_value(key, value) if key in known else _unknown_option(name, key))
    return [line for line in words if line]


def count_parameters(model: nn.Module, image_size: int, batch_size: int) -> int:
    """How many numbers are trained; nothing is computed.

    Raises UserError where images of this size are too small for the network, or a batch for its
    batch norm.
    """

    def variables():
        images = jnp.zeros((batch_size, image_size, image_size, 3))
        key = jax.random.key(0)
        variables = model.init(key, images)
        model.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})
        return variables

    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(variables)["params"]))


def model_options(name: str) -> tuple[str, ...]:
    """The names of the options that the network takes, out of `OPTIONS`."""
    entry = _entry(name)
    fixed = getattr(entry, "keywords", {})
    fields = _field_names(entry)
    return tuple(key for key in OPTIONS if key in fields and key not in fixed)


def _entry(name: str) -> Callable[..., nn.Module]:
    if name not in MODELS:
        raise UserError(
            f'there is no model "{name[:60]}"{_nearest(name, MODELS)}; {_listed(MODELS)}'
        )
    return MODELS[name]


def _field_names(entry: Callable[..., nn.Module]) -> set[str]:
    return {field.name for field in dataclasses.fields(getattr(entry, "func", entry))}


def _unknown_option(name: str, key: str) -> str:
    options = model_options(name)
    if not options:
        return f'the model "{name}" has no option "{key}"; it takes none'
    return f'the model "{name}" has no option "{key}"{_nearest(key, options)}; {_listed(options)}'


def _wrong_value(key: str, value) -> str:
    """Why the value of an option makes no network, or nothing."""
    if key in _CHOICES:
        return _wrong_choice(key, value, _CHOICES[key])
    if key == "hidden_sizes":
        sizes = _sizes(value)
        if not all(_is_count(size) for size in sizes):
            return f"model.hidden_sizes must be whole numbers of 1 or more, not {str(value)[:60]}"
        if len(sizes) > MOST_LAYERS:
            return f"model.hidden_sizes are {len(sizes)} layers, but there may be {MOST_LAYERS}"
    elif key in ("dropout", "width") and not _is_number(value):
        return f"model.{key} must be a number, not {str(value)[:60]}"
    elif key == "dropout" and not 0.0 <= np.float32(value) < 1.0:
        return f"model.dropout is a probability of at least 0 and below 1, not {value}"
    elif key == "width" and not 0.0 < value <= WIDEST:
        return f"model.width must be a number above 0 and up to {WIDEST}, not {value}"
    elif key in ("batch_norm", "remat", "whitening") and not isinstance(value, bool):
        return f"model.{key} must be True or False, not {value}"
    return ""


def _sizes(value) -> tuple:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _is_number(value) -> bool:
    # Beyond the width that is allowed, numbers need not fit a float.
    return isinstance(value, int | float | np.number) and abs(value) < 1e30


def _is_count(size) -> bool:
    try:
        return int(size) == size and 1 <= size < 2**31
    except (TypeError, ValueError, OverflowError):  # a text, NaN, infinity
        return False


def _wrong_choice(key: str, value: str, choices: Iterable[str]) -> str:
    if isinstance(value, str) and value in choices:
        return ""
    return f'model.{key} "{str(value)[:60]}" is none of: {", ".join(choices)}'


def _nearest(word: str, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(words), n=1)
    return f', did you mean "{close[0]}"?' if close else ""


def _listed(words: Iterable[str]) -> str:
    return f"there are: {', '.join(words)}"
