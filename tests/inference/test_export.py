"""Exported networks give the same probabilities in other programs as here."""

import dataclasses
import json
import os
import sys

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cifar_jax.errors import UserError
from cifar_jax.inference import export, find, predict, weights
from cifar_jax.inference.export import stablehlo
from cifar_jax.models import MODELS, create_model
from cifar_jax.steps.state import init_variables
from configs import default

pytestmark = pytest.mark.usefixtures("shallow_mobilenet")

CLASSES = tuple("abcdefg")

# A small network of every kind: (name, options, input size, size of the images if it differs).
NETWORKS = {
    "linear": ("linear", {}, 8, None),
    **{
        activation: ("mlp", {"hidden_sizes": (9, 5), "activation": activation}, 8, None)
        for activation in ("relu", "leaky_relu", "selu", "gelu", "silu")
    },
    "mlp with batch norm": ("mlp", {"hidden_sizes": (9,), "batch_norm": True}, 8, None),
    "lenet": ("lenet", {}, 32, None),
    "cnn": ("cnn", {"width": 0.25, "batch_norm": True}, 16, None),
    "cnn pooled": (
        "cnn",
        {"width": 0.25, "downsample": "max_pool", "activation": "selu"},
        20,
        None,
    ),
    "resnet8_v1": ("resnet8_v1", {"width": 0.25, "remat": True}, 8, None),
    "resnet8_v1 zero padding": (
        "resnet8_v1",
        {"width": 0.25, "shortcut": "zero_padding"},
        9,
        None,
    ),
    "resnet8_v2 enlarged": ("resnet8_v2", {"width": 0.25}, 16, 9),
    "resnet18": ("resnet18", {"width": 0.0625, "stem": "imagenet"}, 32, None),
    "mobilenet_v2": ("mobilenet_v2", {"width": 0.125}, 8, None),
    "airbench94": ("airbench94", {"width": 0.125}, 17, None),
}


def random_weights(name, options, size, enlarged_from=None, dtype="float32") -> weights.Weights:
    """Random weights. Outputs differ clearly between classes and examples, as do batch norm's statistics."""
    model = create_model(name, num_classes=len(CLASSES), **options)
    rng = np.random.default_rng(0)

    def draw(path, like):
        if path[-1].key in ("var", "scale"):
            return rng.uniform(0.5, 2, like.shape).astype(np.float32)
        fan_in = np.prod(like.shape[:-1]) if len(like.shape) > 1 else 10
        return (rng.standard_normal(like.shape) * np.sqrt(1.5 / fan_in)).astype(np.float32)

    like = jax.eval_shape(lambda: init_variables(model, 0, size))
    return weights.Weights(
        variables=dict(jax.tree_util.tree_map_with_path(draw, like)),
        model={"name": name, "dtype": dtype, **options},
        class_names=CLASSES,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.3),
        image_size=size,
        dataset={"name": "cifar10"} | ({"enlarged_from": enlarged_from} if enlarged_from else {}),
        epoch=1,
        chosen_on="",
        accuracy=None,
    )


def check(run, found: weights.Weights) -> None:
    """Asserts that `run` gives the network's probabilities for batches of different sizes."""
    size = predict.picture_size(found)
    images = np.random.default_rng(1).integers(0, 256, (3, size, size, 3), np.uint8)
    expected = predict.probabilities(found, images)
    # Otherwise a network with constant output would pass.
    assert np.ptp(expected, axis=0).max() > 0.01
    for count in (1, 3):
        got = np.asarray(run(images[:count]))
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected[:count], atol=1e-5)


def onnx_session(data: bytes):
    runtime = pytest.importorskip("onnxruntime")
    return runtime.InferenceSession(data, providers=["CPUExecutionProvider"])


def in_onnx_runtime(data: bytes):
    session = onnx_session(data)
    return lambda images: session.run(["probabilities"], {"images": images})[0]


def in_jax(data: bytes):
    return jax.export.deserialize(bytearray(data)).call


def in_iree(data: bytes):
    compiler = pytest.importorskip("iree.compiler")
    runtime = pytest.importorskip("iree.runtime")
    host = ["--iree-llvmcpu-target-cpu=host"]
    program = compiler.compile_str(
        data, target_backends=["llvm-cpu"], input_type="stablehlo", extra_args=host
    )
    context = runtime.SystemContext(config=runtime.Config("local-sync"))
    module = runtime.VmModule.copy_buffer(context.instance, program)
    context.add_vm_module(module)

    def call(images):
        results = context.modules[module.name].main(images)
        several = isinstance(results, list | tuple)
        return [result.to_host() for result in results] if several else results.to_host()

    return call


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_onnx_runtime_gives_the_probabilities_of_every_kind_of_network(network):
    pytest.importorskip("onnx")
    found = random_weights(*network)
    check(in_onnx_runtime(export.to_onnx(found)), found)


# Sides that the strides divide and others.
FCNS = {
    "resnet8_v1": ("resnet8_v1", {"fcn_stride": 1, "width": 0.5}, 12),
    "resnet8_v2": ("resnet8_v2", {"fcn_stride": 4, "width": 0.5}, 13),
    "mobilenet_v2": ("mobilenet_v2", {"fcn_stride": 2, "width": 0.35}, 16),
}


@pytest.mark.parametrize("network", FCNS.values(), ids=FCNS)
@pytest.mark.usefixtures("shallow_mobilenet")
def test_a_segmentation_network_gives_classes_and_probabilities_in_every_form(network):
    pytest.importorskip("onnx")
    found = random_weights(*network)
    images = np.random.default_rng(1).integers(0, 256, (3, network[2], network[2], 3), np.uint8)
    expected = predict.probabilities(found, images)
    session = onnx_session(export.to_onnx(found))
    forms = {
        "onnx": lambda images: session.run(["classes", "probabilities"], {"images": images}),
        "jax": in_jax(export.to_jax(found)),
    }
    if network[0] == "resnet8_v2":  # it takes half a minute
        forms["iree"] = in_iree(export.to_stablehlo(found))
    for name, run in forms.items():
        classes, probabilities = map(np.asarray, run(images))
        assert (classes.dtype, probabilities.dtype) == (np.uint8, np.float32), name
        np.testing.assert_allclose(probabilities, expected, atol=1e-5, err_msg=name)
        np.testing.assert_array_equal(classes, np.argmax(probabilities, -1), err_msg=name)
    # Not one class everywhere, so the comparison means something.
    assert len(np.unique(classes)) > 1


def test_every_kind_of_network_is_tried():
    def kind(entry):
        return getattr(entry, "func", entry), getattr(entry, "keywords", {}).get("version")

    tried = {kind(MODELS[name]) for name, *_ in NETWORKS.values()}
    assert tried == {kind(entry) for entry in MODELS.values()}


def test_jax_runs_its_form_and_no_kernel_of_ours_is_in_it():
    found = random_weights(*NETWORKS["resnet8_v1"])
    data = export.to_jax(found)
    exported = jax.export.deserialize(bytearray(data))
    assert {"cpu", "cuda", "tpu"} <= set(exported.platforms)
    assert "cifar_jax" not in exported.mlir_module()
    check(in_jax(data), found)


@pytest.mark.parametrize("name", ["gelu", "cnn pooled", "resnet8_v2 enlarged"])
def test_iree_runs_the_stablehlo(name):
    found = random_weights(*NETWORKS[name])
    check(in_iree(export.to_stablehlo(found)), found)


def depthwise(x):
    kernel = np.arange(3 * 5 * 4, dtype=np.float32).reshape(3, 5, 1, 4)
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (2, 3), ((1, 0), (2, 1)), dimension_numbers=numbers, feature_group_count=4
    )


# The operations that are rewritten into another form for the bytecode.
OPERATIONS = {
    "depthwise": depthwise,
    "max_pool": lambda x: nn.max_pool(x, (3, 2), (2, 1), ((1, 1), (0, 1))),
    "dense": lambda x: x.reshape(x.shape[0], -1) @ np.eye(5 * 6 * 4, 3, dtype=np.float32),
    "enlarge": lambda x: jax.image.resize(x, (x.shape[0], 8, 7, 4), "bilinear"),
    "matrix of an axis": lambda x: jnp.einsum("bhwc,dw->bhcd", x, np.ones((2, 6), np.float32)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_in_the_form_for_other_compilers_give_the_same(name):
    function = OPERATIONS[name]
    images = np.random.default_rng(0).standard_normal((2, 5, 6, 4)).astype(np.float32)
    rewritten = stablehlo.rewritten(function)
    assert str(jax.make_jaxpr(rewritten)(images)) != str(jax.make_jaxpr(function)(images))
    np.testing.assert_allclose(rewritten(images), function(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["depthwise", "max_pool"])
def test_iree_runs_operations_in_that_form(name):
    (batch,) = jax.export.symbolic_shape("batch")
    like = jax.ShapeDtypeStruct((batch, 5, 6, 4), np.float32)
    images = np.random.default_rng(0).standard_normal((2, 5, 6, 4)).astype(np.float32)
    got = in_iree(stablehlo.convert(OPERATIONS[name], like))(images)
    np.testing.assert_allclose(got, OPERATIONS[name](images), rtol=1e-5, atol=1e-5)


def test_stablehlo_is_portable_bytecode_that_calls_no_runtime():
    data = export.to_stablehlo(random_weights(*NETWORKS["mobilenet_v2"]))
    # MLIR bytecode starts with a magic number and the name of its producer.
    assert data.startswith(b"ML\xefR")
    assert b"StableHLO_v" in data[:20]
    assert b"convolution" in data
    assert b"custom_call" not in data


def test_networks_that_were_trained_in_bfloat16_are_computed_in_float32():
    found = random_weights(*NETWORKS["cnn"], dtype="bfloat16")
    exact = dataclasses.replace(found, model=found.model | {"dtype": "float32"})
    check(in_jax(export.to_jax(found)), exact)


def test_an_onnx_file_says_what_goes_in_and_out_and_what_the_classes_are_called():
    pytest.importorskip("onnx")
    found = random_weights(*NETWORKS["resnet8_v2 enlarged"])
    session = onnx_session(export.to_onnx(found))
    (images,), (probabilities,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type) == ("images", "tensor(uint8)")
    assert images.shape == ["batch", 9, 9, 3]
    assert (probabilities.name, probabilities.type) == ("probabilities", "tensor(float)")
    assert probabilities.shape == ["batch", 7]
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == list(CLASSES)
    assert json.loads(metadata["cifar_jax"])["image_size"] == 16


def test_an_operation_that_networks_do_not_make_is_refused():
    onnx_graph = pytest.importorskip("cifar_jax.inference.export.onnx_graph")
    images = jax.ShapeDtypeStruct((2, 3), np.float32)
    for function in (jnp.sort, lambda x: jnp.broadcast_to(x[:, :, None], (2, 3, 4))):
        with pytest.raises(NotImplementedError):
            onnx_graph.convert(function, images, "x", ["y"], {})


def test_equal_weights_give_equal_files():
    found = random_weights(*NETWORKS["linear"])
    assert export.to_stablehlo(found) == export.to_stablehlo(found)
    if "onnx" in sys.modules:
        assert export.to_onnx(found) == export.to_onnx(found)


def test_without_the_package_onnx_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "cifar_jax.inference.export.onnx_graph", raising=False)
    monkeypatch.delattr(export, "onnx_graph", raising=False)
    with pytest.raises(UserError, match="pip install onnx"):
        export.to_onnx(random_weights(*NETWORKS["linear"]))


def test_format_and_name_say_each_other(tmp_path):
    assert export.choose(None, "", "lenet") == ("onnx", "lenet.onnx")
    assert export.choose("stablehlo", "", "lenet") == ("stablehlo", "lenet.mlirbc")
    assert export.choose(None, "net.SafeTensors", "lenet") == ("safetensors", "net.SafeTensors")
    assert export.choose("onnx", "net.bin", "lenet") == ("onnx", "net.bin")
    with pytest.raises(UserError, match="has the suffix of --format=onnx, not jax"):
        export.choose("jax", "net.onnx", "lenet")
    with pytest.raises(UserError, match="give a --format"):
        export.choose(None, "net.bin", "lenet")
    with pytest.raises(UserError, match="is a folder"):
        export.choose("onnx", str(tmp_path), "lenet")


def test_the_command_writes_an_onnx_file_of_a_run(trained, tmp_path):
    pytest.importorskip("onnx")
    answer = trained.call(
        "--mode=export", f"--workdir={trained.workdir}", f"--output={tmp_path / 'net.onnx'}"
    )
    assert answer.status == 0, answer
    assert "images: uint8 [batch, 8, 8, 3]" in answer.out
    found = find.find_weights("best", str(trained.workdir), default.get_config())
    check(in_onnx_runtime((tmp_path / "net.onnx").read_bytes()), found)


def test_the_command_takes_the_newest_weights_out_of_a_run(trained, tmp_path):
    flags = ("--mode=export", f"--workdir={trained.workdir}", "--weights=latest")
    answer = trained.call(*flags, "--format=safetensors", cwd=tmp_path)
    assert answer.status == 0, answer
    got = weights.load(tmp_path / "linear.safetensors")
    latest = find.find_weights("latest", str(trained.workdir), default.get_config())
    assert got.chosen_on == ""  # best.safetensors would name the split here
    jax.tree.map(np.testing.assert_array_equal, got.variables, latest.variables)


def test_what_is_no_file_is_not_replaced_by_one(tmp_path):
    pipe = tmp_path / "net.safetensors"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="it is a pipe, socket or device"):
        export.write(pipe, "safetensors", random_weights(*NETWORKS["linear"]))
    assert pipe.is_fifo()
