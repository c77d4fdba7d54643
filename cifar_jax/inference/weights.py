"""Weights for inference as safetensors files.

A file holds everything that is needed to use the weights (model, class names, mean and deviation), and no
time, host or path. So equal runs give files with equal bytes. A digest of all of it shows damage.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping

import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from cifar_jax import models
from cifar_jax.data import LARGEST_IMAGE
from cifar_jax.errors import UserError
from cifar_jax.system import files

FORMAT = 1
# The only key of the file's metadata; its value is a JSON object. safetensors writes several keys in an
# order that changes from process to process.
METADATA_KEY = "cifar_jax"
# The field of the metadata with the digest of everything else.
DIGEST = "sha256"
COLLECTIONS = ("params", "batch_stats")
# The end of a note of `init_from` about a tensor that was not replaced.
KEPT = ": kept the new one"


@dataclasses.dataclass(frozen=True)
class Weights:
    """A trained network: all that is needed to predict with it, and its origin."""

    # {"params": nested dict of float32 arrays, "batch_stats": the same; missing without batch norm}.
    variables: dict
    # Arguments of create_model: {"name": "resnet20_v2", "dtype": "float32", and options that are set}.
    model: dict
    class_names: tuple[str, ...]
    # Per channel (RGB), for pixels scaled to [0, 1].
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    # Height and width in pixels.
    image_size: int
    # The training set: {"name": "cifar100", "labels": "fine"}, with {"enlarged_from": 32} if images of
    # that height and width were enlarged to image_size, and for segmentation {"colours": [[r, g, b], ...]}.
    dataset: dict
    # The number of trained epochs.
    epoch: int
    # The split on which this epoch was the best, "test" or "validation"; "" if it was not chosen.
    chosen_on: str
    # Accuracy on that split (that of pixels, for segmentation), a fraction.
    accuracy: float | None


def save(path: str | os.PathLike, weights: Weights) -> None:
    """Writes a safetensors file, atomically."""
    files.write_bytes(path, to_bytes(weights))


def to_bytes(weights: Weights) -> bytes:
    """The contents of a safetensors file. Tensors have names like "params/head/kernel"."""
    tensors = {
        # safetensors writes memory as it is, so a transposed view would be scrambled.
        name: np.array(array, np.float32, order="C")
        for name, array in flatten(weights.variables).items()
    }
    fields = json.loads(metadata(weights))
    fields[DIGEST] = _digest(fields, tensors)
    return safetensors.numpy.save(tensors, {METADATA_KEY: _to_json(fields)})


def metadata(weights: Weights) -> str:
    """All fields except `variables`, as a JSON object."""
    fields = {"format": FORMAT}
    fields |= {name: getattr(weights, name) for name in _FIELDS}
    fields["mean"], fields["std"] = _floats(weights.mean), _floats(weights.std)
    return _to_json(fields)


def load(path: str | os.PathLike) -> Weights:
    """Reads a file that `save` wrote.

    Raises:
        UserError: the file is missing, truncated, not a safetensors file, not of this project, of an
            unknown format version, does not match its digest, or contains NaN or infinity. Files of
            older versions of this program have no digest.
    """
    files.check_regular_file(path)
    name = files.shown(path)
    try:
        # The library would call any file that it may not read missing.
        with open(path, "rb"), safetensors.safe_open(path, framework="numpy") as file:
            fields = _read_metadata(name, file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in sorted(file.keys())}
    except OSError as error:
        raise UserError(f"{name} cannot be read: {files.reason(error)}") from error
    # NumPy lacks some of the format's types, and the library reports that with various errors.
    except (safetensors.SafetensorError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{name} is damaged or not a safetensors file: {files.reason(error)}"
        ) from error
    digest = fields.pop(DIGEST, None)
    if digest is not None and digest != _digest(fields, tensors):
        raise UserError(
            f"{name} is damaged: it has changed since it was written (its digest does not match): restore a "
            "copy, or resume its run, which writes it again"
        )
    metadata = _checked(name, fields)
    for key, array in tensors.items():
        if key.split("/")[0] not in COLLECTIONS or array.dtype != np.float32:
            raise UserError(f"{name}: {key} ({array.dtype}) is not a tensor of this project")
        if not np.isfinite(array).all():
            raise UserError(f"{name}: {key} has values that are NaN or infinite")
    try:
        variables = traverse_util.unflatten_dict(tensors, sep="/")
        return Weights(variables=variables, **metadata)
    except (TypeError, ValueError, IndexError) as error:
        raise UserError(f"{name}: its tensors do not fit together") from error


def init_from(variables: Mapping, weights: Weights) -> tuple[dict, list[str]]:
    """Replaces every tensor of `variables` by that of `weights`, to continue training from there.

    A head for another number of classes is not replaced.

    Returns:
      (variables, a line for each tensor that was kept).

    Raises:
      UserError: another tensor is missing, left over or has another shape: the model differs.
    """
    return merge(variables, flatten(weights.variables), weights.model.get("name"))


def merge(variables: Mapping, theirs: Mapping, model: str) -> tuple[dict, list[str]]:
    """`init_from` with the tensors {"params/head/kernel": array} of a file, and its model in words."""
    ours = flatten(variables)
    result, notes = dict(theirs), []
    heads = [{name for name in names if _is_in_head(name)} for names in (ours, theirs)]
    if heads[0] != heads[1] and any(map(is_fcn_head, heads)):
        # One of classification and one of segmentation, or of two strides.
        result = {name: result[name] for name in result if name not in heads[1] - heads[0]}
        result |= {name: ours[name] for name in heads[0] - heads[1]}
        theirs_is, ours_is = (
            "segmentation" if is_fcn_head(head) else "classification" for head in heads[::-1]
        )
        new = ", ".join(sorted({name.split("/")[-2] for name in heads[0] - heads[1]}))
        notes.append(
            f"{models.HEAD}: for {theirs_is} in the file, for {ours_is} here{KEPT}"
            if theirs_is != ours_is
            else f"{models.HEAD}: {new} is not in the file{KEPT}"
        )
    for name in sorted(ours.keys() & theirs.keys()):
        if _differ_in_classes(name, ours[name], theirs[name]):
            result[name] = ours[name]
            shapes = f"{_shape(theirs[name])} in the file, {_shape(ours[name])} here"
            notes.append(f"{name.removeprefix('params/')}: {shapes}{KEPT}")
    wrong = differences(variables, traverse_util.unflatten_dict(result, sep="/"))
    if wrong:
        raise UserError(
            f"the file holds weights of {model}, which do not fit config.model: {listed(wrong)}"
        )
    return traverse_util.unflatten_dict(result, sep="/"), notes


def differences(wanted: Mapping, there: Mapping) -> list[str]:
    """A line for each tensor of a file that is missing, left over or has another shape."""
    wanted, there = flatten(wanted), flatten(there)
    wrong = []
    # Parameters first: they tell more about the difference than statistics.
    for name in sorted(wanted.keys() | there.keys(), key=lambda name: (name[0] != "p", name)):
        if name not in there:
            wrong.append(f"{name} is not in the file")
        elif name not in wanted:
            wrong.append(f"{name} is only in the file")
        elif np.shape(wanted[name]) != np.shape(there[name]):
            shapes = f"{_shape(there[name])} in the file, {_shape(wanted[name])} here"
            wrong.append(f"{name}: {shapes}")
    return wrong


def listed(wrong: list[str]) -> str:
    """The first three of several mistakes, in one line."""
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return f"{'; '.join(wrong[:3])}{more}"


def flatten(variables: Mapping) -> dict:
    """Nested dicts of arrays -> {"params/stage1_block1/conv1/kernel": array}."""
    return traverse_util.flatten_dict(dict(variables), sep="/")


def _is_in_head(name: str) -> bool:
    return name.startswith(f"params/{models.HEAD}/")


def is_fcn_head(names) -> bool:
    """Whether tensors of these names are of a network with `layers.FCNHead`, which has a layer per stride."""
    return any(_is_in_head(name) and name.count("/") > 2 for name in names)


def _differ_in_classes(name: str, ours, theirs) -> bool:
    return (
        _is_in_head(name)
        and np.shape(ours) != np.shape(theirs)
        and np.shape(ours)[:-1] == np.shape(theirs)[:-1]
    )


def _shape(array) -> str:
    return "x".join(str(size) for size in np.shape(array)) or "a number"


def _floats(values) -> list[float]:
    return [float(value) for value in values]


def _scalar(value):
    """Converts NumPy numbers for JSON."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} cannot be stored in the metadata of a weights file")


def _is_text(value) -> bool:
    return isinstance(value, str)


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_image_size(value) -> bool:
    return _is_count(value) and 0 < value <= LARGEST_IMAGE


def _is_number(value) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < 1e30  # False for NaN


def _is_channels(value) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))


def _are_colours(value) -> bool:
    return isinstance(value, list) and all(
        _is_channels(colour) and all(_is_count(x) and x <= 255 for x in colour) for colour in value
    )


def _is_model(value) -> bool:
    known = {"name", "dtype", *models.OPTIONS}
    return isinstance(value, dict) and _is_text(value.get("name")) and value.keys() <= known


# Field -> what its JSON value must be.
_FIELDS = {
    "model": _is_model,
    "class_names": lambda value: isinstance(value, list) and value and all(map(_is_text, value)),
    "mean": _is_channels,
    "std": lambda value: _is_channels(value) and min(value) > 0,
    "image_size": _is_image_size,
    "dataset": lambda value: (
        isinstance(value, dict)
        and _is_text(value.get("name"))
        and _is_image_size(value.get("enlarged_from", 1))
        and _are_colours(value.get("colours", []))
    ),
    "epoch": _is_count,
    "chosen_on": _is_text,
    "accuracy": lambda value: value is None or _is_number(value),
}


def _digest(fields: dict, tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the JSON fields and of each tensor's name, type, shape and bytes, in hexadecimal."""
    digest = hashlib.sha256(_to_json(fields).encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array)
    return digest.hexdigest()


def _to_json(fields: dict) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), default=_scalar)


def _read_metadata(name: str, metadata: Mapping[str, str]) -> dict:
    """The JSON fields of a file. Raises UserError if there are none of a known format version."""
    if METADATA_KEY not in metadata:
        raise UserError(
            f"{name} is a safetensors file, but not of this project (no {METADATA_KEY!r} metadata)"
        )
    try:
        fields = json.loads(metadata[METADATA_KEY])
        version = fields["format"]
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(f"{name}: its {METADATA_KEY!r} metadata cannot be read") from error
    if version != FORMAT:
        raise UserError(
            f"{name} has format version {str(version)[:60]}, but this program reads {FORMAT}: use "
            "the program that wrote it, or a newer one"
        )
    return fields


def _checked(name: str, fields: dict) -> dict:
    """The fields of `Weights` except `variables`. Raises UserError if one is missing or not valid."""
    for field, is_valid in _FIELDS.items():
        if field not in fields or not is_valid(fields[field]):
            raise UserError(f"{name}: its metadata lack a valid {field!r}")
    fields = {field: fields[field] for field in _FIELDS}
    for field in ("class_names", "mean", "std"):
        fields[field] = tuple(fields[field])
    # JSON has no tuples, but models need them (hidden_sizes).
    fields["model"] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in fields["model"].items()
    }
    return fields
