"""Broken weights files, made from a good one, each with a part of the expected message."""

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy


class Runs:
    """Its pickle is a program that writes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "the code ran")


def make(folder: Path, good: Path) -> dict[str, tuple[Path, str]]:
    """Writes the files from `good`, a softmax regression. Returns {name: (path, a part of the message)}."""
    folder.mkdir(parents=True)
    with safetensors.safe_open(good, framework="numpy") as file:
        metadata = json.loads(file.metadata()["cifar_jax"])
        del metadata["sha256"]  # that would be the only thing wrong
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    data = good.read_bytes()
    kernel = tensors["params/head/kernel"]
    found = {}

    def write(name, content, says):
        path = folder / f"{name}.safetensors"
        path.write_bytes(content)
        found[name] = (path, says)

    def save(name, says, meta=None, key="cifar_jax", **changes):
        fields = {**metadata, **(meta or {})} if isinstance(meta, dict | None) else meta
        text = fields if isinstance(fields, str) else json.dumps(fields)
        merged = {**tensors, **changes}
        kept = {key: value for key, value in merged.items() if value is not None}
        write(name, safetensors.numpy.save(kept, {key: text}), says)

    write("empty", b"", "is empty (0 bytes)")
    neither = "damaged, or neither a safetensors nor a PyTorch file"
    write("text", b"these are no weights\n" * 99, neither)
    write("web_page", b"<!DOCTYPE html>\n" * 99, "it is a web page; download the file itself")
    write("cut", data[: len(data) // 2], "damaged or not a safetensors file")
    write("a_byte_more", data + b"\0", "damaged or not a safetensors file")
    write("huge_header", struct.pack("<Q", 2**60) + data[8:], neither)
    write("header_garbage", data[:8] + b"\xff" * (len(data) - 8), neither)
    flipped = bytes([*data[:-9], data[-9] ^ 1, *data[-8:]])
    write("a_bit_flipped", flipped, "its digest does not match")
    write("pickle", pickle.dumps(Runs(folder / "ran"), 2), "safetensors")
    write("no_metadata", safetensors.numpy.save(tensors), "weights of another library")
    save("metadata_of_another", "weights of another library", key="format")
    save("metadata_garbage", "metadata cannot be read", meta="{")
    save("metadata_deep", "metadata cannot be read", meta="[" * 100_000)
    save("newer_format", "has format version 2, but this program reads 1", meta={"format": 2})
    save("no_class_names", "lack a valid 'class_names'", meta={"class_names": []})
    save("std_zero", "lack a valid 'std'", meta={"std": [0, 1, 1]})
    save("mean_nan", "lack a valid 'mean'", meta={"mean": [float("nan"), 0, 0]})
    save("image_size_huge", "lack a valid 'image_size'", meta={"image_size": 10**9})
    save("no_such_model", 'no model "resnet9000"', meta={"model": {"name": "resnet9000"}})
    save("another_model", "params/dense1/bias is not in the file", meta={"model": {"name": "mlp"}})
    option = {"name": "mlp", "dropout": "much"}
    save("option_garbage", "model.dropout must be a number", meta={"model": option})
    save("two_classes", "10 in the file, 2 here", meta={"class_names": ["a", "b"]})
    save("missing_tensor", "params/head/bias is not in the file", **{"params/head/bias": None})
    save("extra_tensor", "params/more is only in the file", **{"params/more": kernel})
    save("wrong_shape", "params/head/kernel: 10x192 in the", **{"params/head/kernel": kernel.T})
    save("wrong_type", "(float16) is not a tensor", **{"params/head/kernel": np.float16(kernel)})
    save("nan", "has values that are NaN or infinite", **{"params/head/kernel": kernel * np.nan})
    with np.errstate(over="ignore"):
        infinite = {"params/head/bias": tensors["params/head/bias"] + np.float32(np.inf)}
    save("infinite", "has values that are NaN or infinite", **infinite)
    return found
