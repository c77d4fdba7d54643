"""Writes a trained network to a file for other programs: ONNX, StableHLO, JAX's own format or safetensors.

A safetensors file holds the weights. Each of the other formats holds one function, from images uint8
[batch, size, size, 3] to probabilities float32 [batch, classes]; that of a segmentation network, to classes
uint8 [batch, size, size] and probabilities float32 [batch, size, size, classes]. It includes normalisation,
softmax and, if the network was trained on enlarged images, the enlarging. It takes a batch of any size and
computes in float32, whatever dtype the network was trained in. It uses standard operations only, so other
programs run it without this project.
"""

import dataclasses
import json
import os
from collections.abc import Callable

import jax
import jax.export
import numpy as np

from cifar_jax import models
from cifar_jax.errors import UserError
from cifar_jax.inference import predict, weights
from cifar_jax.inference.export import stablehlo
from cifar_jax.inference.weights import Weights
from cifar_jax.ops import cpu_kernels
from cifar_jax.system import files

__all__ = ["INPUT", "SUFFIXES", "choose", "outputs", "write"]

INPUT = "images"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def choose(format_: str | None, output: str | None, model: str) -> tuple[str, str]:
    """Returns (format, path) for the values of --format and --output.

    If one is missing, the other decides it. If both are missing, the format is ONNX and the path is the
    model's name.

    Raises:
      UserError: `output` is a folder, ends with the suffix of another format, or is given without a
        format and ends with no known suffix.
    """
    if not output:
        format_ = format_ or "onnx"
        return format_, model + SUFFIXES[format_]
    if os.path.isdir(output):
        raise UserError(f"--output={files.shown(output)} is a folder: give the name of a file")
    ending = os.path.splitext(output)[1]
    implied = next((name for name, suffix in SUFFIXES.items() if suffix == ending.lower()), None)
    if format_ is None and implied is None:
        endings = ", ".join(SUFFIXES.values())
        raise UserError(
            f"--output={files.shown(output)} does not tell the format: give a --format, or a name that "
            f"ends with one of {endings}"
        )
    if format_ and implied and format_ != implied:
        raise UserError(
            f"--output={files.shown(output)} has the suffix of --format={implied}, not {format_}: names "
            f"of {format_} files end with {SUFFIXES[format_]}"
        )
    return format_ or implied, output


def outputs(found: Weights) -> dict[str, str]:
    """The names of the function's outputs, in order, and their types and shapes for people."""
    classes, size = len(found.class_names), predict.picture_size(found)
    if models.segments(found.model):
        return {
            "classes": f"uint8 [batch, {size}, {size}]",
            "probabilities": f"float32 [batch, {size}, {size}, {classes}]",
        }
    return {"probabilities": f"float32 [batch, {classes}]"}


def write(path: str | os.PathLike, format_: str, found: Weights) -> None:
    """Writes the network in one of the formats of `SUFFIXES`, atomically. Raises UserError if it cannot."""
    files.write_bytes(path, _FORMATS[format_].make(found))


def to_onnx(found: Weights) -> bytes:
    """An ONNX model. Its metadata are class_names, a JSON list, and the metadata of a weights file."""
    try:
        from cifar_jax.inference.export import onnx_graph
    except ImportError as error:
        raise UserError(
            "--format=onnx needs the package onnx: pip install onnx (the other formats do not need it)"
        ) from error
    metadata = {
        "class_names": json.dumps(list(found.class_names)),
        weights.METADATA_KEY: weights.metadata(found),
    }
    return onnx_graph.convert(
        _network(found), _images(found), INPUT, list(outputs(found)), metadata
    )


def to_jax(found: Weights) -> bytes:
    """JAX's own format, for `jax.export.deserialize(data).call(images)` on any of `PLATFORMS`."""
    exported = jax.export.export(jax.jit(_network(found)), platforms=PLATFORMS)(_images(found))
    module = stablehlo.bytecode(exported)
    return bytes(dataclasses.replace(exported, mlir_module_serialized=module).serialize())


def to_stablehlo(found: Weights) -> bytes:
    """StableHLO as portable bytecode with one function, `main`, for IREE and other MLIR compilers."""
    return stablehlo.convert(_network(found), _images(found))


def _images(found: Weights) -> jax.ShapeDtypeStruct:
    size = predict.picture_size(found)
    (batch,) = jax.export.symbolic_shape("batch")
    return jax.ShapeDtypeStruct((batch, size, size, 3), np.uint8)


def _network(found: Weights) -> Callable:
    """The function to trace: uint8 [batch, size, size, 3] -> `outputs`."""
    found = dataclasses.replace(found, model=found.model | {"dtype": "float32"})
    logits = predict.logits(found)

    def network(images):
        with cpu_kernels.portable():
            probabilities = stablehlo.softmax(logits(found.variables, images))
            if not models.segments(found.model):
                return probabilities
            return stablehlo.argmax(probabilities).astype(np.uint8), probabilities

    network.__name__ = found.model["name"]
    return network


@dataclasses.dataclass(frozen=True)
class _Format:
    """A file format: how names of its files end, and the function that makes a file's contents."""

    suffix: str
    make: Callable[[Weights], bytes]


# The values of --format. To add a format, add an entry.
_FORMATS = {
    "onnx": _Format(".onnx", to_onnx),
    "stablehlo": _Format(".mlirbc", to_stablehlo),
    "jax": _Format(".jax", to_jax),
    "safetensors": _Format(".safetensors", weights.to_bytes),
}
SUFFIXES = {name: each.suffix for name, each in _FORMATS.items()}
