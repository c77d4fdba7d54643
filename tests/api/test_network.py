"""A network in Python: every form of a picture gives the same answer, that of `main.py`."""

import io
import json
import threading
import warnings

import jax
import numpy as np
import pytest
from PIL import Image

import cifar_jax
from cifar_jax.data import datasets, pictures
from cifar_jax.inference import predict, weights
from cifar_jax.runtime import settings
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
    # 6: a camera held on its side, whose picture is to be turned by 90 degrees.
    turned = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif)
    for same in (
        str(path),
        picture,
        picture.convert("RGBA"),
        np.asarray(picture),
        jax.numpy.asarray(picture),
        turned,
        Image.open(turned),
    ):
        assert network.predict(same) == first
    assert network.predict(path, top=np.int64(1)) == first[:1]
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


@pytest.mark.parametrize(
    ("context", "value"),
    [
        ("enable_x64", True),
        ("disable_jit", True),
        ("numpy_rank_promotion", "raise"),
        ("numpy_dtype_promotion", "strict"),
        ("default_prng_impl", "rbg"),
        ("threefry_partitionable", False),
    ],
)
def test_a_context_of_jax_changes_no_bit_and_ends_as_it_would(network, picture, context, value):
    def values():
        return {name: getattr(jax.config, name) for name in settings.FIXED}

    expected, before = network.probabilities(picture), values()
    with getattr(jax, context)(value):
        inside = values()
        assert (network.probabilities(picture) == expected).all()
        assert values() == inside != before
    assert values() == before


def test_threads_leave_the_settings_of_the_process_as_they_were(network, picture, tmp_path):
    path = tmp_path / "picture.png"
    picture.save(path)
    with settings.restored(["jax_enable_x64"]), warnings.catch_warnings():
        warnings.simplefilter("default")
        jax.config.update("jax_enable_x64", True)
        filters = list(warnings.filters)
        answers = []

        def ask():
            for _ in range(10):
                answers.append(network.predict(path))

        asking = [threading.Thread(target=ask) for _ in range(6)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        assert jax.config.jax_enable_x64
        assert warnings.filters == filters
    assert len(answers) == 60
    assert all(answer == network.predict(path) for answer in answers)


def test_square_images_are_taken_as_they_are(network):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    rows = network.probabilities(images)
    np.testing.assert_array_equal(rows, predict.probabilities(network.weights, images))
    assert (rows.shape, rows.dtype) == ((3, 10), np.float32)
    assert network.probabilities(images[0]).shape == (10,)
    np.testing.assert_array_equal(network.probabilities(jax.numpy.asarray(images)), rows)
    with pytest.raises(cifar_jax.UserError, match="not DynamicJaxprTracer"):
        jax.jit(network.probabilities)(images)


@pytest.fixture(scope="module")
def digits():
    return cifar_jax.dataset("digits")


@pytest.fixture(scope="module")
def of_digits(digits):
    """An untrained network of digits."""
    model = {"name": "linear", "dtype": "float32"}
    variables = init_variables(cifar_jax.models.create_model("linear", 10), 0, 32)
    return cifar_jax.Network(
        weights.Weights(
            jax.tree.map(np.asarray, variables),
            model,
            digits.class_names,
            digits.mean,
            digits.std,
            32,
            {"name": "digits"},
            1,
            "",
            None,
        )
    )


def test_evaluate_agrees_with_probabilities(digits, of_digits):
    result = of_digits.evaluate(digits)
    rows = of_digits.probabilities(digits.test.images)
    assert result.accuracy == np.mean(rows.argmax(axis=1) == digits.test.labels)
    assert of_digits.evaluate(digits.test).loss == result.loss


@pytest.mark.parametrize(
    ("count", "change", "says"),
    [
        (9, 7, "a label is 1[0-6], but the network's classes are 0 to 9"),
        (9, -8, "a label is -"),
        (8, 0, "there are 9 images, but 8 labels"),
        (0, 0, "there are no images"),
    ],
)
def test_labels_that_the_network_does_not_have(digits, of_digits, count, change, says):
    images = digits.test.images[: 9 if count else 0]
    split = datasets.Split(images, digits.test.labels[:count] + np.int32(change))
    with pytest.raises(cifar_jax.UserError, match=says):
        of_digits.evaluate(split)


def with_channels(images, channels):
    return np.resize(images, (*images.shape[:3], channels))


@pytest.mark.parametrize(
    ("field", "change", "says"),
    [
        ("images", lambda x: np.float32(x / 255), r"not images float32 \[9, 32, 32, 3\]"),
        ("images", lambda x: x[:, :, ::2], r"uint8 \[9, 32, 16, 3\]"),
        ("images", lambda x: x[..., 0], r"uint8 \[9, 32, 32\]"),
        ("images", lambda x: with_channels(x, 1), r"uint8 \[9, 32, 32, 1\]"),
        ("images", lambda x: with_channels(x, 4), r"uint8 \[9, 32, 32, 4\]"),
        ("images", lambda x: x[0, 0, 0, 0], r"uint8 \[\]"),
        ("images", list, "not images that are a list and labels int32"),
        ("labels", np.ndarray.tolist, "and labels that are a list"),
        ("labels", lambda x: x * np.nan, r"and labels float64 \[9\]"),
        ("labels", lambda x: x > 4, r"labels bool \[9\]"),
        ("labels", lambda x: x.astype("U1"), "labels <U1"),
        ("labels", lambda x: x.astype(object), "labels object"),
        ("labels", lambda x: x.astype(">i4"), "labels >i4"),
        ("labels", lambda x: x[:, None], r"labels int32 \[9, 1\]"),
        ("labels", lambda x: np.eye(10, dtype=int)[x], r"labels int64 \[9, 10\]"),
        ("labels", lambda x: np.zeros((9, 16, 16), int), r"labels int64 \[9, 16, 16\]"),
        ("labels", lambda x: x[0], r"labels int32 \[\]"),
    ],
)
def test_what_is_no_split(digits, of_digits, field, change, says):
    arrays = {"images": digits.test.images[:9], "labels": digits.test.labels[:9]}
    arrays[field] = change(arrays[field])
    with pytest.raises(cifar_jax.UserError, match=f"images uint8 .*{says}"):
        of_digits.evaluate(datasets.Split(**arrays))


def test_arrays_of_jax_and_labels_of_other_integers(digits, of_digits):
    images, labels = digits.test.images[:99], digits.test.labels[:99]
    loss = of_digits.evaluate(datasets.Split(images, labels)).loss
    for same in (labels.astype("uint8"), labels.astype("int64"), jax.numpy.asarray(labels)):
        split = datasets.Split(jax.numpy.asarray(images), same)
        assert of_digits.evaluate(split).loss == loss


def test_a_run_a_file_and_its_latest_weights(trained):
    by_folder = cifar_jax.load(trained.workdir)
    by_file = cifar_jax.load(f"{trained.workdir}/best.safetensors")
    latest = cifar_jax.load("latest", workdir=trained.workdir)
    assert by_folder.class_names == by_file.class_names == latest.class_names
    assert by_folder.weights.epoch == by_file.weights.epoch <= latest.weights.epoch
    assert repr(by_folder) == f"Network({by_folder.weights.model['name']}, 10 classes of digits)"


def cut_short():
    """An opened picture whose file ends in the middle."""
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(
        whole, "png"
    )
    return Image.open(io.BytesIO(whole.getvalue()[:2000]))


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((4, 4, 3)), "uint8 .* not float64"),
        (np.zeros((4, 4, 7), np.uint8), r"not uint8 \[4, 4, 7\]"),
        (np.zeros((0, 4, 3), np.uint8), r"not uint8 \[0, 4, 3\]"),
        (7, "a picture is a path, a PIL image or a uint8 array, not int"),
        ([], "the list is empty"),
        ("no.png", "no.png"),
        (lambda: Image.new("RGB", (0, 4)), "no pixels: it is 0x4"),
        (cut_short, "a picture cannot be read"),
        (".", "folder"),
    ],
)
def test_what_is_no_picture(network, image, says):
    image = image() if callable(image) else image
    with pytest.raises(cifar_jax.UserError, match=says):
        network.predict(image)


@pytest.mark.parametrize("top", [-1, 0, 1.5, "3", np.nan, None, True])
def test_a_number_of_classes_that_is_none(network, top):
    with pytest.raises(cifar_jax.UserError, match=f"top is {top!r}, but takes a whole number"):
        network.predict(np.zeros((4, 4, 3), np.uint8), top=top)


def test_mistakes(network):
    with pytest.raises(cifar_jax.UserError, match="fit is 'stretch', but takes one of crop"):
        network.predict(np.zeros((4, 4, 3), np.uint8), fit="stretch")
    with pytest.raises(cifar_jax.UserError, match=r"fit is \['crop'\], but takes one of crop"):
        network.predict(np.zeros((4, 4, 3), np.uint8), fit=["crop"])
    with pytest.raises(cifar_jax.UserError, match="no file 'resnet20_v3'; did you mean"):
        cifar_jax.load("resnet20_v3")
    with pytest.raises(cifar_jax.UserError, match="trained on other classes"):
        network.evaluate(cifar_jax.dataset("digits"))
    for nothing in ("digits", cifar_jax.dataset("digits").validation):
        with pytest.raises(cifar_jax.UserError, match="evaluate takes a data set"):
            network.evaluate(nothing)
    with pytest.raises(cifar_jax.UserError, match="the images are 8x8"):
        network.evaluate(cifar_jax.dataset("digits", image_size=8).test)
