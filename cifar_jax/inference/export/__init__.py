"""Trained networks in files for other programs: ONNX, StableHLO, JAX's own form, and safetensors.

Each but the last holds one function, from images uint8 [batch, size, size, 3] to probabilities
float32 [batch, classes]: normalisation, enlarging where the network was trained on enlarged images, and
softmax are inside, the batch is of any size, and all is computed in float32, whatever the type the
network was trained in. It is made of standard operations alone, so no code of this project is needed.
"""

import dataclasses
import json
import os

import jax
import jax.export
import numpy as np

from cifar_jax.errors import UserError
from cifar_jax.inference import predict, weights
from cifar_jax.inference.export import stablehlo
from cifar_jax.inference.weights import Weights
from cifar_jax.ops import cpu_kernels
from cifar_jax.system import files

# What --format takes, and how the names of such files end.
SUFFIXES = {
    "onnx": ".onnx",
    "stablehlo": ".mlirbc",
    "jax": ".jax",
    "safetensors": ".safetensors",
}
INPUT, OUTPUT = "images", "probabilities"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def choose(format_: str | None, output: str | None, model: str) -> tuple[str, str]:
    """(format, path) of what is asked for: either may say the other, and neither means ONNX.

    Raises UserError where the name ends in that of another format, or in none that says one.
    """
    if not output:
        format_ = format_ or "onnx"
        return format_, model + SUFFIXES[format_]
    if os.path.isdir(output):
        raise UserError(f"--output={files.shown(output)} is a folder: give a file's name")
    ending = os.path.splitext(output)[1]
    said = next((name for name, suffix in SUFFIXES.items() if suffix == ending.lower()), None)
    if format_ is None and said is None:
        endings = ", ".join(SUFFIXES.values())
        raise UserError(f"--output={files.shown(output)}: give a --format, or a name in {endings}")
    if format_ and said and format_ != said:
        raise UserError(
            f"--output={files.shown(output)} is named as one of --format={said}, not {format_}: "
            f"those end in {SUFFIXES[format_]}"
        )
    return format_ or said, output


def write(path: str | os.PathLike, format_: str, found: Weights) -> None:
    """Writes the network in a format of `SUFFIXES`, whole or not at all; UserError says why not."""
    if format_ == "safetensors":
        weights.save(path, found)
    else:
        make = {"onnx": to_onnx, "stablehlo": to_stablehlo, "jax": to_jax}[format_]
        files.write_bytes(path, make(found))


def to_onnx(found: Weights) -> bytes:
    """An ONNX model; its metadata hold class_names, a JSON list, and those of a weights file."""
    try:
        from cifar_jax.inference.export import onnx_graph
    except ImportError as error:
        raise UserError(
            "--format=onnx needs the package onnx: pip install onnx (the other formats do not)"
        ) from error
    metadata = {
        "class_names": json.dumps(list(found.class_names)),
        weights.METADATA_KEY: weights.metadata(found),
    }
    return onnx_graph.convert(_network(found), _images(found), (INPUT, OUTPUT), metadata)


def to_jax(found: Weights) -> bytes:
    """For `jax.export.deserialize(data).call(images)`, on any of `PLATFORMS`."""
    exported = jax.export.export(jax.jit(_network(found)), platforms=PLATFORMS)(_images(found))
    module = stablehlo.bytecode(exported)
    return bytes(dataclasses.replace(exported, mlir_module_serialized=module).serialize())


def to_stablehlo(found: Weights) -> bytes:
    """StableHLO as portable bytecode, for IREE and other compilers of MLIR; one function, `main`."""
    return stablehlo.convert(_network(found), _images(found))


def _images(found: Weights) -> jax.ShapeDtypeStruct:
    size = predict.picture_size(found)
    (batch,) = jax.export.symbolic_shape("batch")
    return jax.ShapeDtypeStruct((batch, size, size, 3), np.uint8)


def _network(found: Weights):
    """images uint8 [batch, size, size, 3] -> probabilities float32 [batch, classes], to be traced."""
    found = dataclasses.replace(found, model=found.model | {"dtype": "float32"})
    logits = predict.logits(found)

    def network(images):
        with cpu_kernels.portable():
            return stablehlo.softmax(logits(found.variables, images))

    network.__name__ = found.model["name"]
    return network
