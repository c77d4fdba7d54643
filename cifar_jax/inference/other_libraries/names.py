"""The names that other libraries and repositories give to the tensors of our networks."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from cifar_jax import models
from cifar_jax.errors import UserError
from cifar_jax.models import MODELS, STAGES

STEM = "stem_conv"

# Blocks per stage -> the ResNet of version 1 that has them.
RESNETS = {
    entry.keywords["stage_sizes"]: name
    for name, entry in MODELS.items()
    if getattr(entry, "keywords", {}).get("version") == 1
}


def renamed(tensors: Mapping, model: str) -> tuple[dict, list[str]]:
    """(tensors with our names and axis order, names that are unknown).

    Raises UserError for a model that other libraries do not have or have in another form, and for a file
    that has a tensor twice, under two names.
    """
    rename = _rename(tensors, model)
    found, sources, unknown = {}, {}, []
    for name in sorted(tensors):
        module, _, leaf = name.rpartition(".")
        path = _leaf(rename(module), leaf, tensors[name])
        if path is None:
            unknown.append(name)
        elif path in found:
            raise UserError(f"the weights have {path} twice, as {sources[path]} and as {name}")
        else:
            found[path], sources[path] = _ours(tensors[name]), name
    return found, unknown


def describe(names: Iterable[str]) -> str:
    """The network of a file in words, judged by the names of its tensors."""
    names = set(names)
    blocks = {match.groups() for name in names if (match := _BLOCK.match(name))}
    if blocks:
        return _describe_resnet(names, blocks)
    if any(name.startswith(("features.1.conv", "blocks.0.0.conv")) for name in names):
        return "mobilenet_v2 or a relative"
    if any(re.match(r"layers\.\d+\.shortcut\.", name) for name in names):
        return "a MobileNetV2 with projected shortcuts (mobilenet_v2 here has none)"
    if any(name.startswith("stage1.residual.") for name in names):
        return (
            "a MobileNetV2 whose convolutions have biases, which those of mobilenet_v2 here do not"
        )
    return f"no network that is known here, as with {', '.join(sorted(names)[:2])}"


def _describe_resnet(names: set[str], blocks: set[tuple]) -> str:
    if any(re.search(r"\.0\.(conv3|residual_function\.6)\.", name) for name in names):
        return "a ResNet of bottleneck blocks, 50 layers or more"
    if not names & {"bn1.weight", "conv1.1.weight"}:
        return (
            "a ResNet with batch norm before each convolution, in another form than version 2 here"
        )
    stages = Counter((layer, conv) for layer, conv, _ in blocks)
    model = RESNETS.get(tuple(count for _, count in sorted(stages.items(), key=str)))
    if model is None:
        return f"a ResNet of {len(blocks)} blocks"
    is_projected = any(re.search(r"\.(downsample|shortcut)\.", name) for name in names)
    shortcut = "projection" if is_projected else "zero_padding"
    is_usual = is_projected and len(stages) == 4
    return model if is_usual else f"{model} with model.shortcut={shortcut}"


def _rename(tensors: Mapping, model: str) -> Callable[[str], str | None]:
    """The function from their name of a module to ours."""
    if model in RESNETS.values():
        return _resnet_module
    if model == "mobilenet_v2":
        is_timm = any(name.startswith("blocks.") for name in tensors)
        return _timm_mobilenet_module if is_timm else _torchvision_mobilenet_module
    raise UserError(
        f"weights of {describe(tensors)} cannot be loaded into {model}, which is config.model.name: of other "
        f"libraries there are weights for {', '.join(RESNETS.values())} and mobilenet_v2"
    )


def _leaf(module: str | None, leaf: str, array: np.ndarray) -> str | None:
    """Our name of a tensor in one of our modules; None if there is none."""
    if module is None:
        return None
    statistics = {"running_mean": "mean", "running_var": "var"}
    if leaf in statistics:
        return f"batch_stats/{module}/{statistics[leaf]}"
    # A vector named "weight" is the scale of a batch norm.
    names = {"weight": "kernel" if array.ndim > 1 else "scale", "bias": "bias"}
    return f"params/{module}/{names[leaf]}" if leaf in names else None


def _ours(array: np.ndarray) -> np.ndarray:
    """[out, in, height, width] -> [height, width, in, out], [out, in] -> [in, out]."""
    axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim)
    return np.ascontiguousarray(array.transpose(axes)) if axes else array


# ResNets. torchvision, timm and chenyaofo/pytorch-cifar-models have "fc" and "downsample",
# kuangliu/pytorch-cifar and akamaster/pytorch_resnet_cifar10 "linear" and "shortcut", and
# weiaicunzai/pytorch-cifar100 "conv1.0", "residual_function" and "shortcut".
_RESNET_ENDS = {
    "conv1": STEM,
    "conv1.0": STEM,
    "bn1": "stem_bn",
    "conv1.1": "stem_bn",
    "fc": models.HEAD,
    "linear": models.HEAD,
}
_RESNET_LAYERS = {
    "conv1": "conv1",
    "residual_function.0": "conv1",
    "bn1": "bn1",
    "residual_function.1": "bn1",
    "conv2": "conv2",
    "residual_function.3": "conv2",
    "bn2": "bn2",
    "residual_function.4": "bn2",
    "downsample.0": "shortcut_conv",
    "shortcut.0": "shortcut_conv",
    "downsample.1": "shortcut_bn",
    "shortcut.1": "shortcut_bn",
}
# weiaicunzai's first stage is conv2_x, after the paper's table 1.
_BLOCK = re.compile(r"(?:layer(\d)|conv(\d)_x)\.(\d+)\.")


def _resnet_module(name: str) -> str | None:
    match = _BLOCK.match(name)
    if match is None:
        return _RESNET_ENDS.get(name)
    layer = _RESNET_LAYERS.get(name[match.end() :])
    stage = int(match[1]) if match[1] else int(match[2]) - 1
    return layer and f"stage{stage}_block{int(match[3]) + 1}/{layer}"


# The layers of an inverted residual, in order. Without expansion, the first two are missing.
_LAYERS = (
    "expand_conv",
    "expand_bn",
    "depthwise_conv",
    "depthwise_bn",
    "project_conv",
    "project_bn",
)


def _torchvision_mobilenet_module(name: str) -> str | None:
    """The names of torchvision, which chenyaofo/pytorch-cifar-models shares."""
    blocks = [
        f"stage{s}_block{b + 1}" for s, stage in enumerate(STAGES, 1) for b in range(stage.blocks)
    ]
    plain = {
        "features.0.0": STEM,
        "features.0.1": "stem_bn",
        f"features.{len(blocks) + 1}.0": "last_conv",
        f"features.{len(blocks) + 1}.1": "last_bn",
        "classifier.1": models.HEAD,
    }
    if name in plain:
        return plain[name]
    match = re.fullmatch(r"features\.(\d+)\.conv\.(\d(?:\.\d)?)", name)
    if match is None or not 1 <= int(match[1]) <= len(blocks):
        return None
    # Each convolution except the last is grouped with its batch norm and activation.
    expands = STAGES[0].blocks < int(match[1])
    places = ("0.0", "0.1", "1.0", "1.1", "2", "3") if expands else ("0.0", "0.1", "1", "2")
    layers = dict(zip(places, _LAYERS[-len(places) :], strict=True))
    if match[2] not in layers:
        return None
    return f"{blocks[int(match[1]) - 1]}/{layers[match[2]]}"


def _timm_mobilenet_module(name: str) -> str | None:
    plain = {
        "conv_stem": STEM,
        "bn1": "stem_bn",
        "conv_head": "last_conv",
        "bn2": "last_bn",
        "classifier": models.HEAD,
    }
    if name in plain:
        return plain[name]
    match = re.fullmatch(r"blocks\.(\d)\.(\d+)\.(\w+)", name)
    if match is None:
        return None
    stage, block, layer = match.groups()
    expands = stage != "0"
    names = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
    names = names if expands else ("conv_dw", "bn1", "conv_pw", "bn2")
    layers = dict(zip(names, _LAYERS[-len(names) :], strict=True))
    if layer not in layers:
        return None
    return f"stage{int(stage) + 1}_block{int(block) + 1}/{layers[layer]}"
