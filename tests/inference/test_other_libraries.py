"""Weights files of torchvision and timm give the same logits here. Every tensor must be accounted for."""

import functools
import io
import pickle
import re
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from cifar_jax.errors import UserError
from cifar_jax.inference import other_libraries, weights
from cifar_jax.models import create_model
from tests.helpers.compiling import fast_jit

torch = pytest.importorskip("torch")
from tests.helpers import torchvision_names as theirs  # noqa: E402

CLASSES = 11
NETWORKS = {
    "resnet18": ("resnet18", theirs.resnet18),
    "resnet34": ("resnet34", theirs.resnet34),
    "mobilenet_v2 of torchvision": ("mobilenet_v2", theirs.TorchvisionMobileNetV2),
    "mobilenet_v2 of timm": ("mobilenet_v2", theirs.TimmMobileNetV2),
}


def zeros(name, classes=CLASSES, **options):
    """A model and its variables, filled with zeros."""
    model = create_model(name, classes, **options)
    images = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images))
    return model, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), dict(shapes))


@functools.cache
def network(name, imagenet=True):
    return theirs.randomise(NETWORKS[name][1](CLASSES, imagenet))


def save(path, name="resnet18", change=lambda tensors: tensors):
    """Saves a network's state dict as .safetensors, after `change`. Returns the path."""
    tensors = {key: value.numpy() for key, value in network(name).state_dict().items()}
    path.write_bytes(safetensors.numpy.save(change(tensors), {"format": "pt"}))
    return path


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("stem", "size"), [("imagenet", 224), ("cifar", 32)])
def test_the_logits_are_pytorchs(tmp_path, name, stem, size):
    twin = network(name, stem == "imagenet")
    torch.save(twin.state_dict(), tmp_path / "weights.pth")
    model, variables = zeros(NETWORKS[name][0], stem=stem)
    tensors = other_libraries.read(str(tmp_path / "weights.pth"))
    variables, notes = other_libraries.init_from(variables, tensors, NETWORKS[name][0])
    assert notes == []

    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    found = np.asarray(fast_jit(model.apply)(variables, images))
    with torch.no_grad():
        expected = twin(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    # The images' logits differ by far more than the tolerance, so the comparison means something.
    assert np.abs(expected[0] - expected[1]).max() > 1e-2 * np.abs(expected).max()


def test_all_files_and_wrappers_give_the_same_tensors(tmp_path):
    state = network("resnet18").state_dict()
    expected = other_libraries.read(str(save(tmp_path / "plain.safetensors")))
    assert not any("num_batches" in name for name in expected)
    parallel = {f"module.{name}": value for name, value in state.items()}
    variants = {
        "plain.bin": state,
        "wrapped.pt": {"epoch": 3, "state_dict": parallel, "optimizer": {"state": {}}},
        "compiled.pth": {"model": {f"_orig_mod.{name}": value for name, value in state.items()}},
    }
    for file, content in variants.items():
        torch.save(content, tmp_path / file)
        found = other_libraries.read(str(tmp_path / file))
        assert found.keys() == expected.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, expected[name])


def test_which_files_are_others(tmp_path):
    assert other_libraries.is_other(str(save(tmp_path / "a.safetensors")))
    assert other_libraries.is_other("model.PTH")
    _, variables = zeros("linear")
    ours = weights.Weights(
        variables,
        {"name": "linear"},
        ("a", "b"),
        (0.5,) * 3,
        (0.2,) * 3,
        32,
        {"name": "x"},
        1,
        "",
        None,
    )
    weights.save(tmp_path / "ours.safetensors", ours)
    assert not other_libraries.is_other(str(tmp_path / "ours.safetensors"))


def test_what_is_not_used_and_not_found_is_listed(tmp_path):
    def change(tensors):
        del tensors["fc.weight"], tensors["fc.bias"]
        return tensors | {"projector.0.weight": np.ones((2, 2), np.float32)}

    _, variables = zeros("resnet18", stem="imagenet")
    tensors = other_libraries.read(str(save(tmp_path / "w.safetensors", change=change)))
    result, notes = other_libraries.init_from(variables, tensors, "resnet18")
    assert notes == [
        "projector.0.weight: not used",
        "head/bias: not in the file: kept the new one",
        "head/kernel: not in the file: kept the new one",
    ]
    np.testing.assert_array_equal(result["params"]["head"]["kernel"], 0)
    kernel = network("resnet18").layer1[1].conv2.weight.detach().numpy()
    ours = result["params"]["stage1_block2"]["conv2"]["kernel"]
    np.testing.assert_array_equal(ours[2, 0, 5, 7], kernel[7, 5, 2, 0])


def test_a_head_of_other_classes_and_a_stem_of_another_window_are_kept_new(tmp_path):
    _, variables = zeros("resnet18", classes=3)
    tensors = other_libraries.read(str(save(tmp_path / "w.safetensors")))
    result, notes = other_libraries.init_from(variables, tensors, "resnet18")
    assert notes == [
        "stem_conv: 7x7 in the file, 3x3 here: kept the new one and its batch norm "
        "(--config.model.stem=imagenet takes the file's)",
        "head/bias: 11 in the file, 3 here: kept the new one",
        "head/kernel: 512x11 in the file, 512x3 here: kept the new one",
    ]
    np.testing.assert_array_equal(result["params"]["stem_bn"]["scale"], 0)
    np.testing.assert_array_equal(result["batch_stats"]["stem_bn"]["var"], 0)
    with pytest.raises(UserError, match="set config"):
        other_libraries.init_from(variables, tensors, "resnet18", frozen=True)


@pytest.mark.parametrize(
    ("file", "model", "says"),
    [
        ("resnet34", "resnet18", r"\(resnet34 in the file\)"),
        ("resnet18", "resnet34", r"\(resnet18 in the file\)"),
        ("resnet18", "mobilenet_v2", r"\(resnet18 in the file\)"),
        ("mobilenet_v2 of timm", "resnet18", r"\(mobilenet_v2 or a relative in the file\)"),
        ("resnet18", "resnet20_v2", "but config.model.name is resnet20_v2"),
    ],
)
def test_another_network_is_refused_in_a_line(tmp_path, file, model, says):
    _, variables = zeros(model)
    tensors = other_libraries.read(str(save(tmp_path / "w.safetensors", file)))
    with pytest.raises(UserError, match=says) as error:
        other_libraries.init_from(variables, tensors, model)
    assert "\n" not in str(error.value)


def refusal(path) -> str:
    with pytest.raises(UserError) as error:
        other_libraries.read(str(path))
    assert "\n" not in str(error.value)
    assert re.match(rf"{path}\b", str(error.value))
    return str(error.value)


class Touches:
    """Pickles as code that creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_bad_files_are_refused_and_no_code_in_them_runs(tmp_path, monkeypatch):
    code = tmp_path / "code.pth"
    torch.save({"weight": torch.ones(2), "note": Touches(tmp_path / "ran")}, code)
    assert "could run code" in refusal(code)
    code.write_bytes(pickle.dumps(Touches(tmp_path / "ran")))
    refusal(code)
    assert not (tmp_path / "ran").exists()

    whole = io.BytesIO()
    torch.save({"weight": torch.ones(1000)}, whole)
    for name, content in {
        "cut.pth": whole.getvalue()[:700],
        "text.pt": b"no weights at all\n" * 20,
        "empty.bin": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        refusal(tmp_path / name)
    assert "no such file" in refusal(tmp_path / "missing.pth").lower()
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    assert "but a list" in refusal(tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    assert "no tensors" in refusal(tmp_path / "none.pth")
    torch.save({"fc.bias": torch.tensor([1.0, float("nan")])}, tmp_path / "nan.pth")
    assert "fc.bias has values that are NaN" in refusal(tmp_path / "nan.pth")
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as file:
        file.writestr("a.txt", "not PyTorch's")
    refusal(tmp_path / "zip.pth")

    # As if PyTorch were not installed.
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install torch" in refusal(tmp_path / "nan.pth")
