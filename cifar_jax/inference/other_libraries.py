"""Weights of torchvision and timm, converted to our names and axis order.

Reads ResNet-18, ResNet-34 and MobileNetV2 from .safetensors files and, if PyTorch is installed, from
PyTorch files. Only tensors are loaded from those, never code.
"""

import re
import warnings
from collections.abc import Iterable, Mapping

import numpy as np
import safetensors

from cifar_jax import models
from cifar_jax.errors import UserError
from cifar_jax.inference import weights
from cifar_jax.models import STAGES
from cifar_jax.system import files

TORCH_SUFFIXES = (".pth", ".pt", ".bin")

# Keys under which a larger file may hold the state dict.
WRAPPERS = ("state_dict", "model", "model_state_dict")
# Prefixes that parallel and compiled training add to every name.
PREFIXES = ("module.", "_orig_mod.")
# The number of batches that a batch norm has seen; not needed here.
COUNTER = "num_batches_tracked"

STEM = "stem_conv"


def is_other(path: str) -> bool:
    """Whether this module reads a file: it is a PyTorch file, or lacks our metadata.

    Raises UserError if it is not a file.
    """
    if path.lower().endswith(TORCH_SUFFIXES):
        return True
    files.check_regular_file(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return weights.METADATA_KEY not in (file.metadata() or {})
    # A damaged file is reported where it is read.
    except (OSError, safetensors.SafetensorError):
        return False


def read(path: str) -> dict[str, np.ndarray]:
    """The tensors of a file under their own names, as float32, without batch counters.

    Raises:
      UserError: the file cannot be read, is not a state dict, or contains NaN or infinity.
    """
    files.check_regular_file(path)
    tensors = _read_torch(path) if path.lower().endswith(TORCH_SUFFIXES) else _read_tensors(path)
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): array for name, array in tensors.items()}
    tensors = {
        name: np.asarray(array, np.float32)
        for name, array in tensors.items()
        if name.rpartition(".")[2] != COUNTER
    }
    if not tensors:
        raise UserError(f"{files.shown(path)} holds no tensors")
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise UserError(f"{files.shown(path)}: {name} has values that are NaN or infinite")
    return tensors


def init_from(
    variables: Mapping, tensors: Mapping, model: str, frozen: bool = False
) -> tuple[dict, list[str]]:
    """Replaces every tensor of `variables` by that of a file, to continue training from there.

    A head is kept if it is missing in the file or has another number of classes. A stem is kept if its
    window has another size, together with the batch norm after it.

    Args:
      variables: our {"params", "batch_stats"}.
      tensors: the result of `read`.
      model: the name of our model, such as "resnet18".
      frozen: whether the backbone or its batch norm will be frozen; a new stem would stay untrained.

    Returns:
      (variables, notes): a line for each tensor that was not used or not found.

    Raises:
      UserError: the file has another network, or another stem that must be trained but is frozen.
    """
    theirs, unknown = renamed(tensors, model)
    ours = weights.flatten(variables)
    notes = [f"{name}: not used" for name in unknown]
    kernel = f"params/{STEM}/kernel"
    if kernel in theirs and theirs[kernel].shape[:2] != ours[kernel].shape[:2]:
        theirs_size, ours_size = ("x".join(map(str, x[kernel].shape[:2])) for x in (theirs, ours))
        stem = "imagenet" if theirs_size == "7x7" else "cifar"
        sizes = f"{STEM}: {theirs_size} in the file, {ours_size} here"
        if frozen:
            raise UserError(
                f"{sizes}: a new one would stay untrained with what config.transfer freezes; set "
                f"config.model.stem={stem}, as the file has it"
            )
        notes.append(
            f"{sizes}: kept the new one and its batch norm (--config.model.stem={stem} takes the file's)"
        )
        for name in ours:
            if name.split("/")[1] in (STEM, "stem_bn"):
                theirs[name] = ours[name]
    for name in sorted(ours.keys() - theirs.keys()):
        if name.startswith(f"params/{models.HEAD}/"):
            theirs[name] = ours[name]
            notes.append(f"{name.removeprefix('params/')}: not in the file: kept the new one")
    result, more = weights.merge(variables, theirs, _describe(tensors))
    return result, notes + more


def renamed(tensors: Mapping, model: str) -> tuple[dict, list[str]]:
    """(tensors with our names and axis order, names that are unknown).

    Raises UserError for models that other libraries do not have, or have in another form.
    """
    if model in ("resnet18", "resnet34"):
        rename = _resnet_module
    elif model == "mobilenet_v2":
        is_timm = any(name.startswith("blocks.") for name in tensors)
        rename = _timm_mobilenet_module if is_timm else _torchvision_mobilenet_module
    else:
        raise UserError(
            "weights of other libraries can be loaded into resnet18, resnet34 and mobilenet_v2, but "
            f"config.model.name is {model}"
        )
    found, unknown = {}, []
    for name in sorted(tensors):
        module, _, leaf = name.rpartition(".")
        path = _leaf(rename(module), leaf, tensors[name])
        if path is None:
            unknown.append(name)
        else:
            found[path] = _ours(tensors[name])
    return found, unknown


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


def _resnet_module(name: str) -> str | None:
    """The names of torchvision, which timm's ResNet-18 and 34 share."""
    plain = {"conv1": STEM, "bn1": "stem_bn", "fc": models.HEAD}
    if name in plain:
        return plain[name]
    match = re.fullmatch(r"layer(\d)\.(\d+)\.(conv\d|bn\d|downsample\.[01])", name)
    if match is None:
        return None
    stage, block, layer = match.groups()
    layer = {"downsample.0": "shortcut_conv", "downsample.1": "shortcut_bn"}.get(layer, layer)
    return f"stage{stage}_block{int(block) + 1}/{layer}"


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


def _describe(names: Iterable[str]) -> str:
    """The network of a file in words, judged by the names of its tensors."""
    names = set(names)
    if any(name.startswith("layer1.") for name in names):
        blocks = len({tuple(name.split(".")[:2]) for name in names if name.startswith("layer")})
        if any(name.startswith("layer1.0.conv3") for name in names):
            return "a ResNet of bottleneck blocks, 50 layers or more"
        return {8: "resnet18", 16: "resnet34"}.get(blocks, f"a ResNet of {blocks} blocks")
    if any(name.startswith(("features.1.conv", "blocks.0.0.conv")) for name in names):
        return "mobilenet_v2 or a relative"
    return f"no network that is known here, as with {', '.join(sorted(names)[:2])}"


def _read_tensors(path: str) -> dict:
    shown = files.shown(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise UserError(f"{shown} cannot be read: {files.reason(error)}") from error
    # NumPy lacks some of the format's types (bfloat16), and the library reports that with various errors.
    except (safetensors.SafetensorError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{shown} is damaged or not of float32: {files.reason(error)}") from error


def _read_torch(path: str) -> dict:
    shown = files.shown(path)
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{shown} is a PyTorch file, and PyTorch is not installed: pip install torch, or convert it "
            "elsewhere with safetensors.torch.save_file(state_dict, FILE)"
        ) from None
    try:
        # Users cannot act on its warnings about how the file was written.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True)
    # For damaged files and files with code, torch.load may raise nearly anything, in many lines.
    except Exception as error:
        if "Unsupported" in str(error) or "TorchScript" in str(error):
            raise UserError(
                f"{shown} holds other objects than tensors, which are not loaded because they could run "
                "code: save only the model's state_dict()"
            ) from None
        raise UserError(f"{shown} is damaged or not a PyTorch file") from None
    for wrapper in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
            break
    if not isinstance(found, Mapping):
        raise UserError(f"{shown} is not a state dict but a {type(found).__name__}")
    return {
        str(name): value.detach().float().numpy()
        for name, value in found.items()
        if isinstance(value, torch.Tensor)
    }
