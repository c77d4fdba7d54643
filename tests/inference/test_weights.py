"""Weights files: loading returns what was saved, equal runs write equal bytes, bad files are refused.

A refusal is one line that names the file.
"""

import dataclasses
import json
import os
import struct
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from cifar_jax import models
from cifar_jax.errors import UserError
from cifar_jax.inference import weights


def variables(num_classes=10, width=4):
    rng = np.random.default_rng(0)

    def array(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return {
        "params": {
            "stage1_block1": {"conv1": {"kernel": array(3, 3, 3, width)}, "scale": array()},
            "head": {"kernel": array(width, num_classes), "bias": array(num_classes)},
        },
        "batch_stats": {"norm": {"mean": array(width), "var": array(width) ** 2}},
    }


def example(**changes) -> weights.Weights:
    fields = {
        "variables": variables(),
        "model": {"name": "mlp", "dtype": "float32", "hidden_sizes": (64, 32), "dropout": 0.1},
        "class_names": ("cat", "dog", "Fuß", *"abcdefg"),
        "mean": (0.1, 0.2, 1 / 3),
        "std": (0.2470, 0.2435, 0.2616),
        "image_size": 32,
        "dataset": {"name": "cifar100", "labels": "fine"},
        "epoch": 187,
        "chosen_on": "validation",
        "accuracy": 0.9123,
    }
    return weights.Weights(**fields | changes)


def assert_same_arrays(first, second):
    first, second = weights.flatten(first), weights.flatten(second)
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert second[name].dtype == np.float32
        np.testing.assert_array_equal(array, second[name])
        assert np.shape(array) == np.shape(second[name]), name


@pytest.mark.parametrize("changes", [{}, {"chosen_on": "", "accuracy": None, "epoch": 0}])
def test_what_is_saved_is_loaded(tmp_path, changes):
    saved = example(**changes)
    weights.save(tmp_path / "w.safetensors", saved)
    loaded = weights.load(tmp_path / "w.safetensors")
    assert_same_arrays(saved.variables, loaded.variables)
    for field in dataclasses.fields(weights.Weights):
        if field.name != "variables":
            assert getattr(loaded, field.name) == getattr(saved, field.name), field.name
    hash(tuple(loaded.model.values()))  # hidden_sizes must be a tuple again: Flax hashes modules


def test_a_network_without_batch_norm_has_no_statistics(tmp_path):
    saved = example(variables={"params": variables()["params"]})
    weights.save(tmp_path / "w.safetensors", saved)
    assert set(weights.load(tmp_path / "w.safetensors").variables) == {"params"}


def test_the_file_read_by_hand(tmp_path):
    # The format: a little-endian length, JSON of that length, the data. Transposed views and JAX arrays
    # must be written in the order of their indices.
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3).T
    tree = {"params": {"head": {"kernel": kernel, "bias": jnp.array([1.0, 2.0])}}}
    weights.save(tmp_path / "w.safetensors", example(variables=tree))
    data = (tmp_path / "w.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    entry = header["params/head/kernel"]
    assert entry["dtype"] == "F32"
    assert entry["shape"] == [3, 2]
    begin, end = entry["data_offsets"]
    values = struct.unpack("<6f", data[8 + length + begin : 8 + length + end])
    assert values == (0, 3, 1, 4, 2, 5)
    assert set(header) == {"__metadata__", "params/head/kernel", "params/head/bias"}


def test_two_processes_write_the_same_bytes(tmp_path):
    # Several metadata keys would be in a different order in each process: 9 keys have 362,880 orders.
    # The other folder, file name and hash seed must leave no trace either.
    weights.save(tmp_path / "here.safetensors", example())
    other = tmp_path / "other" / "name.safetensors"
    other.parent.mkdir()
    program = (
        "import sys, test_weights as t; t.weights.save(sys.argv[1], t.example("
        "variables=dict(reversed(t.variables().items())), model=dict(reversed("
        "t.example().model.items())), mean=t.np.array(t.example().mean)))"
    )
    here = os.path.dirname(os.path.abspath(__file__))
    environment = os.environ | {
        "PYTHONHASHSEED": "12345",
        "PYTHONPATH": os.pathsep.join([here, os.path.dirname(os.path.dirname(here))]),
        "JAX_PLATFORMS": "cpu",
    }
    subprocess.run(
        [sys.executable, "-c", program, str(other)], env=environment, cwd=tmp_path, check=True
    )
    assert other.read_bytes() == (tmp_path / "here.safetensors").read_bytes()


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "w.safetensors"
    weights.save(path, example())
    before = path.read_bytes()
    with pytest.raises(TypeError):
        weights.save(path, example(model={"name": object()}))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["w.safetensors"]


def write(path, metadata, tensors=None):
    metadata = None if metadata is None else {weights.METADATA_KEY: json.dumps(metadata)}
    tensors = {"params/a": np.zeros(2, np.float32)} if tensors is None else tensors
    path.write_bytes(safetensors.numpy.save(tensors, metadata))


def good_metadata(**changes):
    fields = dataclasses.asdict(example())
    del fields["variables"]
    return {"format": 1} | fields | changes


def without(field):
    return {key: value for key, value in good_metadata().items() if key != field}


@pytest.mark.parametrize(
    ("metadata", "tensors", "words"),
    [
        (None, None, "not of this project"),
        ([1], None, "metadata cannot be read"),
        ({}, None, "metadata cannot be read"),
        (good_metadata(format=2), None, "format version 2"),
        (without("class_names"), None, "'class_names'"),
        (without("std"), None, "'std'"),
        (good_metadata(mean=[1, 2]), None, "'mean'"),
        (good_metadata(model={}), None, "'model'"),
        (good_metadata(image_size="32"), None, "'image_size'"),
        (
            good_metadata(),
            {"params/a": np.float32([1, np.nan])},
            "params/a has values that are NaN",
        ),
        (good_metadata(), {"params/b": np.float32([np.inf])}, "params/b has values"),
        (good_metadata(), {"params/a": np.zeros(2)}, "params/a (float64)"),
        (good_metadata(), {"a": np.zeros(2, np.float32)}, "a (float32)"),
        (
            good_metadata(),
            {"params/a": np.zeros(2, np.float32), "params/a/b": np.zeros(2, np.float32)},
            "do not fit together",
        ),
    ],
)
def test_files_of_others_are_refused(tmp_path, metadata, tensors, words):
    path = tmp_path / "w.safetensors"
    write(path, metadata, tensors)
    assert_refused(path, words)


def assert_refused(path, words):
    with pytest.raises(UserError) as raised:
        weights.load(path)
    message = str(raised.value)
    assert words in message
    assert path.name in message
    assert "\n" not in message


def test_good_metadata_by_hand_are_accepted(tmp_path):
    # Shows that the refusals above are not all due to some other mistake in the metadata.
    write(tmp_path / "w.safetensors", good_metadata())
    assert weights.load(tmp_path / "w.safetensors").epoch == 187


def test_a_file_without_permission_is_refused_for_that_reason(tmp_path, without_rights):
    weights.save("w.safetensors", example())
    os.chmod("w.safetensors", 0)
    with without_rights(), pytest.raises(UserError, match="cannot be read: Permission denied"):
        weights.load("w.safetensors")


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    assert_refused(path, "No such file")
    weights.save(path, example())
    data = path.read_bytes()
    for length in (1, 8, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        assert_refused(path, "damaged")
    path.write_bytes(data + b"x")
    assert_refused(path, "damaged")
    path.write_bytes(b"")
    assert_refused(path, "empty")
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 0x40]))
    assert_refused(path, "digest does not match")
    path.write_bytes(b"a text that is no weights file\n" * 9)
    assert_refused(path, "damaged")
    path.unlink()
    path.mkdir()
    assert_refused(path, "folder")


def test_every_changed_byte_is_noticed_or_changes_nothing(tmp_path):
    path = tmp_path / "w.safetensors"
    small = {"params": {"head": {"bias": np.float32([0.25, -3.0])}}}
    saved = example(variables=small)
    weights.save(path, saved)
    data = path.read_bytes()
    refused = 0
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            loaded = weights.load(path)
        except UserError:
            refused += 1
            continue
        assert_same_arrays(loaded.variables, small)
        assert dataclasses.replace(loaded, variables=small) == saved
    # Only the name of the digest's field may change: the file then looks as one of an older version.
    assert refused >= len(data) - len(weights.DIGEST) - 8


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert_refused(tmp_path / "pipe", "pipe")


def test_init_from_the_same_model_takes_everything():
    fresh = jax.tree.map(np.zeros_like, variables())
    result, notes = weights.init_from(fresh, example())
    assert_same_arrays(result, variables())
    assert notes == []


def test_init_from_keeps_a_head_with_other_classes():
    fresh = variables(num_classes=100)
    result, notes = weights.init_from(fresh, example(variables=variables(num_classes=10)))
    assert notes == [
        "head/bias: 10 in the file, 100 here: kept the new one",
        "head/kernel: 4x10 in the file, 4x100 here: kept the new one",
    ]
    np.testing.assert_array_equal(
        result["params"]["head"]["kernel"], fresh["params"]["head"]["kernel"]
    )
    np.testing.assert_array_equal(
        result["params"]["stage1_block1"]["conv1"]["kernel"],
        variables(num_classes=10)["params"]["stage1_block1"]["conv1"]["kernel"],
    )


def test_init_from_keeps_a_new_head_of_another_kind_or_stride():
    def with_scores(*strides):
        fresh = variables()
        layer = fresh["params"]["head"]
        fresh["params"]["head"] = {f"score_{stride}": layer for stride in strides}
        return fresh

    def init_from(ours, theirs):
        result, notes = weights.init_from(ours, example(variables=theirs))
        assert_same_arrays(result, ours)  # all of these have the same random numbers
        return notes

    kept = "here: kept the new one"
    assert init_from(with_scores(8, 4), variables()) == [
        f"head: for classification in the file, for segmentation {kept}"
    ]
    assert init_from(variables(), with_scores(8)) == [
        f"head: for segmentation in the file, for classification {kept}"
    ]
    assert init_from(with_scores(8, 4), with_scores(8)) == [
        "head: score_4 is not in the file: kept the new one"
    ]
    assert init_from(with_scores(8), with_scores(8)) == []


def test_init_from_another_model_names_what_differs():
    # Four leaves differ: conv1/kernel, head/kernel (in its input), mean and var. Three are named.
    with pytest.raises(UserError, match="conv1/kernel: 3x3x3x4 in the file, 3x3x3x8 here") as error:
        weights.init_from(variables(width=8), example())
    assert str(error.value).endswith("and 1 more")
    assert "\n" not in str(error.value)
    smaller = {"params": variables()["params"]}
    with pytest.raises(UserError, match="batch_stats/norm/mean is only in the file"):
        weights.init_from(smaller, example())
    with pytest.raises(UserError, match="batch_stats/norm/mean is not in the file"):
        weights.init_from(variables(), example(variables=smaller))


@pytest.mark.parametrize("name", ["linear", "lenet", "resnet8_v2", "mobilenet_v2"])
def test_only_the_head_of_a_network_depends_on_the_classes(name):
    def zeros(num_classes):
        model = models.create_model(name, num_classes)
        images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        shapes = jax.eval_shape(
            lambda images: model.init(jax.random.key(0), images, train=False), images
        )
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)

    ours, theirs = zeros(100), zeros(10)
    result, notes = weights.init_from(ours, example(variables=theirs))
    assert [note.split(":")[0] for note in notes] == ["head/bias", "head/kernel"]
    assert jax.tree.map(np.shape, result) == jax.tree.map(np.shape, ours)
