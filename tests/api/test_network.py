"""A network in Python: every form of a picture gives the same answer, that of `main.py`."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

import cifar_jax
from cifar_jax.data import pictures
from cifar_jax.inference import predict, weights
from cifar_jax.steps import init_variables
from tests.helpers import cli


@pytest.fixture(scope="module")
def network():
    return cifar_jax.load()


@pytest.fixture(scope="module")
def picture():
    """Wider than high, with a different left and right side."""
    pixels = np.zeros((48, 80, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, 80, dtype=np.uint8)
    pixels[10:30, 50:70, 1] = 200
    return Image.fromarray(pixels)


def test_paths_images_and_arrays_give_the_same_answer(network, picture, tmp_path):
    path = tmp_path / "picture.png"
    picture.save(path)
    first = network.predict(path)
    assert [len(first), first[0][1] >= first[1][1]] == [5, True]
    for same in (str(path), picture, picture.convert("RGBA"), np.asarray(picture)):
        assert network.predict(same) == first
    several = network.predict([path, picture, np.asarray(picture)], top=2)
    for answer in several:
        assert [name for name, _ in answer] == [name for name, _ in first[:2]]
        np.testing.assert_allclose([p for _, p in answer], [p for _, p in first[:2]], rtol=1e-5)


def test_the_command_line_answers_the_same(network, picture, tmp_path):
    picture.save(tmp_path / "picture.png")
    for fit in ("crop", "crop+squash"):
        answer = cli.call(
            tmp_path,
            "--mode=predict",
            f"--image={tmp_path}/picture.png",
            f"--fit={fit}",
            "--json",
        )
        (found,) = json.loads(answer.out)["predictions"]
        theirs = [(each["name"], each["probability"]) for each in found["classes"]]
        ours = network.predict(picture, fit=fit)
        assert [name for name, _ in theirs] == [name for name, _ in ours]
        np.testing.assert_allclose([p for _, p in theirs], [p for _, p in ours], rtol=1e-5)


def test_several_views_are_averaged_as_log_probabilities(network, picture):
    views = pictures.fitted(picture, 32, "crop+squash")
    assert views.shape == (4, 32, 32, 3)
    logits = np.asarray(predict.logits(network.weights)(network.weights.variables, views))
    mean = jax.nn.log_softmax(logits).mean(axis=0)
    np.testing.assert_allclose(
        network.probabilities(picture), jax.nn.softmax(mean), rtol=1e-4, atol=1e-7
    )


def test_square_images_are_taken_as_they_are(network):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    rows = network.probabilities(images)
    np.testing.assert_array_equal(rows, predict.probabilities(network.weights, images))
    assert (rows.shape, rows.dtype) == ((3, 10), np.float32)
    assert network.probabilities(images[0]).shape == (10,)


def test_evaluate_agrees_with_probabilities():
    data = cifar_jax.dataset("digits")
    model = {"name": "linear", "dtype": "float32"}
    variables = init_variables(cifar_jax.models.create_model("linear", 10), 0, 32)
    network = cifar_jax.Network(
        weights.Weights(
            jax.tree.map(np.asarray, variables),
            model,
            data.class_names,
            data.mean,
            data.std,
            32,
            {"name": "digits"},
            1,
            "",
            None,
        )
    )
    result = network.evaluate(data)
    rows = network.probabilities(data.test.images)
    assert result.accuracy == np.mean(rows.argmax(axis=1) == data.test.labels)
    assert network.evaluate(data.test).loss == result.loss


def test_a_run_a_file_and_its_latest_weights(trained):
    by_folder = cifar_jax.load(trained.workdir)
    by_file = cifar_jax.load(f"{trained.workdir}/best.safetensors")
    latest = cifar_jax.load("latest", workdir=trained.workdir)
    assert by_folder.class_names == by_file.class_names == latest.class_names
    assert by_folder.weights.epoch == by_file.weights.epoch <= latest.weights.epoch
    assert repr(by_folder) == f"Network({by_folder.weights.model['name']}, 10 classes of digits)"


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((4, 4, 3)), "uint8 .* not float64"),
        (np.zeros((4, 4, 7), np.uint8), r"not uint8 \[4, 4, 7\]"),
        (np.zeros((0, 4, 3), np.uint8), r"not uint8 \[0, 4, 3\]"),
        (7, "a picture is a path, a PIL image or a uint8 array, not int"),
        ([], "the list is empty"),
        ("no.png", "no.png"),
        (".", "folder"),
    ],
)
def test_what_is_no_picture(network, image, says):
    with pytest.raises(cifar_jax.UserError, match=says):
        network.predict(image)


def test_mistakes(network):
    with pytest.raises(cifar_jax.UserError, match="fit is 'stretch', but takes one of crop"):
        network.predict(np.zeros((4, 4, 3), np.uint8), fit="stretch")
    with pytest.raises(cifar_jax.UserError, match="no file 'resnet20_v3'; did you mean"):
        cifar_jax.load("resnet20_v3")
    with pytest.raises(cifar_jax.UserError, match="trained on other classes"):
        network.evaluate(cifar_jax.dataset("digits"))
    for nothing in ("digits", cifar_jax.dataset("digits").validation):
        with pytest.raises(cifar_jax.UserError, match="evaluate takes a data set"):
            network.evaluate(nothing)
    with pytest.raises(cifar_jax.UserError, match="the images are 8x8"):
        network.evaluate(cifar_jax.dataset("digits", image_size=8).test)
