"""The registry of networks: a name and options in, a Flax Linen module out.

To add a network, write its module in a file of this folder, enter it in `MODELS`, and add its parameter count
to tests/models/test_models.py. The module maps normalised float images [batch, height, width, 3] to float32
logits [batch, num_classes]: `model.apply(variables, images, train=False)`. Its fields are `num_classes`,
`dtype`, any of `OPTIONS`, and, with batch norm or dropout, `axis_name` and `sync_batch_norm`.

Variables are `params` and, with batch norm, `batch_stats`, all float32. Training needs `rngs={"dropout":
key}`, the same key on every device, and `mutable=["batch_stats"]`: otherwise, batch norm normalises as in
evaluation. The last dense layer is named `HEAD`; no other layer's shape depends on the number of classes. A
whitening layer (`layers.Whitening`) and the option that turns it on are named `WHITENING`. With the option
`fcn_stride`, the network is fully convolutional (`layers.FCNHead`, named `HEAD` too): its logits are float32
[batch, height, width, num_classes].

Initial weights are drawn together (`layers.drawn_together`), so no module is called twice, and none is inside
`nn.scan` or `nn.vmap`. (`nn.remat` belongs to the field `remat`, which is off while they are drawn.)
"""

import difflib
from collections.abc import Callable, Iterable

import flax.linen as nn
import jax
import jax.numpy as jnp

from cifar_jax.errors import UserError
from cifar_jax.models import airbench, cnn, linear, mlp, mobilenet_v2, resnet
from cifar_jax.models.options import OPTIONS, field_names, is_count, options_of, sizes, wrong_choice

HEAD = "head"
WHITENING = "whitening"

# Name -> a module class, or a partial of one that fixes some of its fields.
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
    "airbench94": airbench.airbench94,
    "airbench96": airbench.airbench96,
}

# float64 is for tests, and needs jax_enable_x64.
DTYPES = ("float32", "bfloat16", "float64")


def create_model(
    name: str,
    num_classes: int,
    *,
    dtype: str = "float32",
    axis_name: str | None = None,
    sync_batch_norm: bool = True,
    **options,
) -> nn.Module:
    """The network of this name.

    Args:
      name: a key of `MODELS`.
      num_classes: the number of classes, at least 1.
      dtype: type of the computation, one of `DTYPES`.
      axis_name: the mapped axis of devices in training; None if there is none. Batch norm is synchronised
        over it, and dropout derives an example's place in the global batch from it.
      sync_batch_norm: False: each device has its own batch statistics.
      options: those of `model_options(name)`; None means the network's own default.

    Raises:
      UserError: the name, an option or a value does not exist. The message lists the valid ones.
    """
    wrong = mistakes(name, dtype, **options)
    if not is_count(num_classes):
        wrong.append(
            f"num_classes must be a whole number of 1 or more, not {str(num_classes)[:60]}"
        )
    if wrong:
        raise UserError("; ".join(wrong))
    entry = _entry(name)
    options = {key: value for key, value in options.items() if value is not None}
    if "hidden_sizes" in options:
        # A tuple, since modules must be hashable; of int, since NumPy's integers are allowed.
        options["hidden_sizes"] = tuple(map(int, sizes(options["hidden_sizes"])))
    mapped = {"axis_name": axis_name, "sync_batch_norm": sync_batch_norm}
    fields = field_names(entry)
    mapped = {key: value for key, value in mapped.items() if key in fields}
    return entry(num_classes=int(num_classes), dtype=jnp.dtype(dtype), **mapped, **options)


def mistakes(name: str, dtype: str = "float32", **options) -> list[str]:
    """One line for each mistake that makes `create_model` raise UserError; [] if there is none."""
    try:
        known = model_options(name)
    except UserError as error:
        return [str(error)]
    lines = [wrong_choice("dtype", str(dtype), DTYPES)]
    for key, value in options.items():
        if value is not None:
            lines.append(OPTIONS[key](key, value) if key in known else _unknown_option(name, key))
    return [line for line in lines if line]


def count_parameters(model: nn.Module, image_size: int, batch_size: int) -> int:
    """The number of trained values. Computes shapes only.

    Raises:
      UserError: images of this size are too small for the network, or the batch for its batch norm.
    """

    def variables():
        images = jnp.zeros((batch_size, image_size, image_size, 3))
        key = jax.random.key(0)
        variables = model.init(key, images)
        model.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})
        return variables

    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(variables)["params"]))


def model_options(name: str) -> tuple[str, ...]:
    """The names of the options of a network, out of `OPTIONS`."""
    return options_of(_entry(name))


def _entry(name: str) -> Callable[..., nn.Module]:
    if not isinstance(name, str) or name not in MODELS:
        name = str(name)[:60]
        raise UserError(f'there is no model "{name}"{_nearest(name, MODELS)}; {_listed(MODELS)}')
    return MODELS[name]


def _unknown_option(name: str, key: str) -> str:
    options = model_options(name)
    if not options:
        return f'the model "{name}" has no option "{key}"; it takes none'
    return f'the model "{name}" has no option "{key}"{_nearest(key, options)}; {_listed(options)}'


def _nearest(word: str, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(words), n=1)
    return f', did you mean "{close[0]}"?' if close else ""


def _listed(words: Iterable[str]) -> str:
    return f"there are: {', '.join(words)}"
