"""Weights files of other libraries give the same logits here. Every tensor must be accounted for."""

import functools
import io
import itertools
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

torch = pytest.importorskip("torch")
from tests.helpers import repository_names as repositories  # noqa: E402
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


@pytest.mark.parametrize(
    ("name", "stem", "size"),
    [*((name, "imagenet", 64) for name in NETWORKS), ("resnet18", "cifar", 32)],
)
def test_the_logits_are_pytorchs(tmp_path, name, stem, size):
    twin = network(name, stem == "imagenet")
    torch.save(twin.state_dict(), tmp_path / "weights.pth")
    model, variables = zeros(NETWORKS[name][0], stem=stem)
    tensors = other_libraries.read(str(tmp_path / "weights.pth"))
    variables, notes = other_libraries.init_from(variables, tensors, NETWORKS[name][0])
    assert notes == []
    assert_equal_logits(model, variables, twin, size)


def assert_equal_logits(model, variables, twin, size):
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    found = np.asarray(jax.jit(model.apply)(variables, images))
    with torch.no_grad():
        expected = twin(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    # The images' logits differ by far more than the tolerance, so the comparison means something.
    assert np.abs(expected[0] - expected[1]).max() > 1e-2 * np.abs(expected).max()


PADDED = {"shortcut": "zero_padding"}
# The file as each repository writes it, and our network for it: (network, wrapped, file, model, options).
REPOSITORIES = {
    "kuangliu": (
        lambda: repositories.kuangliu((2, 2, 2, 2), CLASSES, 8),
        lambda state: {"net": with_prefix(state, "module."), "acc": 95.1, "epoch": 199},
        "ckpt.pth",
        "resnet18",
        {},
    ),
    "weiaicunzai": (
        lambda: repositories.weiaicunzai((3, 4, 6, 3), CLASSES, 8),
        lambda state: state,
        "resnet34-200-best.pth",
        "resnet34",
        {},
    ),
    "chenyaofo": (
        lambda: repositories.chenyaofo((5, 5, 5), CLASSES, 8),
        lambda state: state,
        "cifar10_resnet32-ef93fc4d.pt",
        "resnet32_v1",
        {},
    ),
    "akamaster": (
        lambda: repositories.akamaster((3, 3, 3), CLASSES, 8),
        lambda state: {"state_dict": with_prefix(state, "module."), "best_prec1": 91.7},
        "resnet20-12fca82f.th",
        "resnet20_v1",
        PADDED,
    ),
}


def with_prefix(state, prefix):
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize("name", REPOSITORIES)
def test_the_logits_are_those_of_the_repository(tmp_path, name):
    make, wrap, file, model_name, options = REPOSITORIES[name]
    twin = theirs.randomise(make())
    # One of them is in the format of before PyTorch 1.6.
    torch.save(
        wrap(twin.state_dict()),
        tmp_path / file,
        _use_new_zipfile_serialization=name != "akamaster",
    )
    model, variables = zeros(model_name, width=1 / 8, **options)
    tensors = other_libraries.read(str(tmp_path / file))
    variables, notes = other_libraries.init_from(variables, tensors, model_name)
    assert notes == []
    assert_equal_logits(model, variables, twin, 32)


@pytest.mark.parametrize(
    ("make", "depths", "options"),
    [
        (repositories.kuangliu, (18, 34), {}),
        (repositories.weiaicunzai, (18, 34), {}),
        (repositories.chenyaofo, (20, 56), {}),
        (repositories.akamaster, (44, 110), PADDED),
    ],
    ids=["kuangliu", "weiaicunzai", "chenyaofo", "akamaster"],
)
def test_any_depth_has_all_tensors_and_is_recognised(make, depths, options):
    for depth in depths:
        blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}.get(depth, ((depth - 2) // 6,) * 3)
        state = make(blocks, CLASSES).state_dict()
        tensors = {
            name: value.numpy() for name, value in state.items() if "num_batches" not in name
        }
        name = f"resnet{depth}" if depth in (18, 34) else f"resnet{depth}_v1"
        _, variables = zeros(name, **options)
        found, notes = other_libraries.init_from(variables, tensors, name)
        assert notes == []
        assert other_libraries.describe(tensors).startswith(name)
        for path, array in weights.flatten(variables).items():
            assert weights.flatten(found)[path].shape == array.shape


def test_all_files_wrappers_and_prefixes_give_the_same_tensors(tmp_path):
    state = repositories.akamaster((1, 1, 1), CLASSES, 8).state_dict()
    expected = {name: array.numpy() for name, array in state.items() if "num_batches" not in name}

    def check(path):
        found = other_libraries.read(str(path))
        assert found.keys() == expected.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, expected[name])

    plain = safetensors.numpy.save(expected)
    for name in ("plain.safetensors", "plain.pth", "plain"):
        (tmp_path / name).write_bytes(plain)
        check(tmp_path / name)
    contents = [{wrapper: state, "epoch": 3} for wrapper in other_libraries.reading.WRAPPERS]
    contents += [with_prefix(state, prefix) for prefix in other_libraries.reading.PREFIXES]
    contents += [
        {"model": {"state_dict": with_prefix(state, "net._orig_mod.module.")}, "optimizer": {}},
        {"state_dict": state, "state_dict_ema": {n: v + 1 for n, v in state.items()}},
        with_prefix(state, "module.") | {"n_averaged": torch.tensor(7)},
    ]
    suffixes = itertools.cycle([".th", ".tar", ".ckpt", ".t7", ".bin", ".safetensors", ""])
    for content, suffix in zip(contents, suffixes, strict=False):
        torch.save(content, tmp_path / f"file{suffix}")
        assert other_libraries.is_other(str(tmp_path / f"file{suffix}"))
        check(tmp_path / f"file{suffix}")


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path):
    tensors = {"fc.bias": np.ones(3, np.float32)}
    for padding in range(1000):
        data = safetensors.numpy.save(tensors, {"note": "x" * padding})
        if data[0] == 0x80:
            break
    (tmp_path / "w").write_bytes(data)
    assert data[0] == 0x80
    np.testing.assert_array_equal(other_libraries.read(str(tmp_path / "w"))["fc.bias"], 1)


def test_which_files_are_others(tmp_path):
    assert other_libraries.is_other(str(save(tmp_path / "a.safetensors")))
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


def test_a_segmentation_network_takes_the_backbone_and_keeps_its_new_head(tmp_path):
    tensors = other_libraries.read(str(save(tmp_path / "resnet18.safetensors")))
    _, plain = zeros("resnet18", stem="imagenet")
    _, variables = zeros("resnet18", stem="imagenet", fcn_stride=8)
    classifier, _ = other_libraries.init_from(plain, tensors, "resnet18")
    found, notes = other_libraries.init_from(variables, tensors, "resnet18")
    assert notes == [
        "head: for classification in the file, for segmentation here: kept the new one"
    ]
    assert found["params"].pop("head") == variables["params"]["head"]
    classifier["params"].pop("head")
    jax.tree.map(np.testing.assert_array_equal, found, classifier)


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
        ("resnet34", "resnet18", "weights of resnet34, which"),
        ("resnet18", "resnet34", "weights of resnet18, which"),
        ("resnet18", "mobilenet_v2", "weights of resnet18, which"),
        ("mobilenet_v2 of timm", "resnet18", "mobilenet_v2 or a relative, which"),
        ("resnet18", "resnet20_v1", "weights of resnet18, which"),
        ("resnet18", "resnet20_v2", "weights of resnet18 cannot be loaded into resnet20_v2"),
    ],
)
def test_another_network_is_refused_in_a_line(tmp_path, file, model, says):
    _, variables = zeros(model)
    tensors = other_libraries.read(str(save(tmp_path / "w.safetensors", file)))
    with pytest.raises(UserError, match=says) as error:
        other_libraries.init_from(variables, tensors, model)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "model", "options", "says"),
    [
        (
            lambda: repositories.akamaster((3, 3, 3), CLASSES),
            "resnet20_v1",
            {},
            r"model\.shortcut=zero_padding, which",
        ),
        (
            lambda: repositories.chenyaofo((3, 3, 3), CLASSES),
            "resnet20_v1",
            PADDED,
            r"model\.shortcut=projection, which",
        ),
        (lambda: repositories.chenyaofo((3, 3, 3), CLASSES), "resnet32_v1", {}, "resnet20_v1 with"),
        (
            lambda: repositories.chenyaofo((4, 4, 4), CLASSES),
            "resnet20_v1",
            {},
            "a ResNet of 12 blocks, which",
        ),
        (repositories.kuangliu_mobilenet, "mobilenet_v2", {}, "with projected shortcuts"),
    ],
)
def test_another_network_of_a_repository_is_refused_in_a_line(make, model, options, says):
    _, variables = zeros(model, **options)
    tensors = {
        name: value.numpy()
        for name, value in make().state_dict().items()
        if "num_batches" not in name
    }
    with pytest.raises(UserError, match=says) as error:
        other_libraries.init_from(variables, tensors, model)
    assert "\n" not in str(error.value)


def test_a_tensor_under_two_names_is_refused(tmp_path):
    def change(tensors):
        return tensors | {"linear.bias": tensors["fc.bias"]}

    _, variables = zeros("resnet18", stem="imagenet")
    tensors = other_libraries.read(str(save(tmp_path / "w.safetensors", change=change)))
    with pytest.raises(UserError, match=r"head/bias twice, as fc\.bias and as linear\.bias"):
        other_libraries.init_from(variables, tensors, "resnet18")


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
    for name, content, says in [
        ("cut.pth", whole.getvalue()[:700], "damaged or not a PyTorch file"),
        ("text.pt", b"no weights at all\n" * 20, "neither a safetensors nor a PyTorch file"),
        ("empty.bin", b"", "is empty"),
        ("page.pth", b"<!DOCTYPE html><html>", "it is a web page"),
        ("lfs.th", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ]:
        (tmp_path / name).write_bytes(content)
        assert says in refusal(tmp_path / name)
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
