"""Evaluation and prediction with one trained run agree, whichever way they are called."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from cifar_jax.data import datasets
from cifar_jax.data.pictures import load_picture
from cifar_jax.errors import UserError
from cifar_jax.inference import evaluate, find, make, predict, weights
from cifar_jax.models import create_model
from configs import default


@pytest.fixture(scope="module")
def found(trained) -> weights.Weights:
    return find.find_weights("best", str(trained.workdir), default.get_config())


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> datasets.Dataset:
    config = default.get_config().dataset
    config.name, config.image_size = "digits", 8
    config.cache_dir = str(tmp_path_factory.mktemp("cache"))
    return datasets.load(config, seed=0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, digits):
    """The first six test images as PNG files."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, image in enumerate(digits.test.images[:6]):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


def logits_in_float64(found, images):
    """Softmax regression in NumPy: float64 [batch, classes]."""
    head = {name: np.float64(value) for name, value in found.variables["params"]["head"].items()}
    x = ((images / 255 - np.array(found.mean)) / np.array(found.std)).reshape(len(images), -1)
    return x @ head["kernel"] + head["bias"]


def test_probabilities_are_the_softmax_of_the_logits(found, digits):
    # More than one forward pass holds; the last one is not full.
    images = digits.test.images[:35]
    got = predict.probabilities(found, images)
    logits = logits_in_float64(found, images)
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    assert got.shape == (35, 10)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_probabilities_use_the_running_statistics_of_batch_norm(found, digits):
    options = {"name": "mlp", "hidden_sizes": (4,), "batch_norm": True, "dropout": 0.5}
    model = create_model(num_classes=10, **options)
    variables = jax.device_get(model.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32)))
    mlp = dataclasses.replace(found, variables=variables, model=options)
    images = digits.test.images[:3]
    inputs = ((images / 255 - np.array(found.mean)) / np.array(found.std)).astype(np.float32)
    expected = jax.nn.softmax(model.apply(variables, inputs, train=False))
    np.testing.assert_allclose(predict.probabilities(mlp, images), expected, atol=1e-5)


def test_a_picture_file_is_predicted_as_evaluation_counts_its_image(found, digits, pictures):
    answers, errors = predict.predict_files(found, [str(pictures)])
    assert errors == []
    # Each image has its own label, so its row of the confusion matrix shows its predicted class.
    split = datasets.Split(digits.test.images[:6], np.arange(6, dtype=np.int32))
    result = evaluate.evaluate_weights(found, split, default.get_config())
    for i, answer in enumerate(answers):
        assert answer["image"].endswith(f"{i}.png")
        assert answer["classes"][0]["name"] == found.class_names[result.confusion[i].argmax()]


def test_the_five_most_probable_classes_come_highest_first(found, pictures):
    (answer,), _ = predict.predict_files(found, [str(pictures / "0.png")])
    probabilities = [entry["probability"] for entry in answer["classes"]]
    assert len(probabilities) == 5
    assert probabilities == sorted(probabilities, reverse=True)
    assert predict.top_classes(np.array([0.25, 0.5, 0.25]), ("a", "b", "c"), 2) == [
        ("b", 0.5),
        ("a", 0.25),
    ]


def test_latest_and_best_are_the_same_after_one_epoch(trained, found):
    latest = find.find_weights("latest", str(trained.workdir), default.get_config())
    theirs, ours = weights.flatten(found.variables), weights.flatten(latest.variables)
    assert theirs.keys() == ours.keys()
    for name in ours:
        assert ours[name].tobytes() == theirs[name].tobytes()
    same = ("model", "class_names", "mean", "std", "image_size", "dataset", "epoch")
    assert all(getattr(latest, name) == getattr(found, name) for name in same)
    assert (found.chosen_on, latest.chosen_on) == ("test", "")


def test_eval_agrees_with_training_and_with_the_weights_alone(trained, found, digits):
    logits = logits_in_float64(found, digits.test.images)
    right = (logits.argmax(axis=1) == digits.test.labels).sum()
    (line,) = (trained.workdir / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["test_accuracy"] == pytest.approx(right / 360)
    result = evaluate.evaluate_weights(found, digits.test, default.get_config())
    assert result.accuracy == pytest.approx(right / 360)
    assert result.count == 360
    assert result.loss == pytest.approx(json.loads(line)["test_loss"], rel=1e-5)
    np.testing.assert_array_equal(result.confusion.sum(axis=1), [36] * 10)


def test_evaluation_keeps_the_probabilities_of_every_image(found, digits):
    config = default.get_config()
    config.eval_batch_size = 100  # the last batch of 360 images is not full
    result = evaluate.evaluate_weights(found, digits.test, config)
    expected = predict.probabilities(found, digits.test.images)
    np.testing.assert_allclose(result.probabilities, expected, atol=1e-6)
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (digits.test.labels, result.probabilities.argmax(axis=1)), 1)
    np.testing.assert_array_equal(result.confusion, confusion)
    assert result.calibration.count.sum() == 360


@pytest.mark.parametrize("views", ["mirror", "mirror_and_shift"])
def test_test_time_augmentation_stands_beside_the_plain_result(found, digits, views):
    config = default.get_config()
    plain = evaluate.evaluate_weights(found, digits.test, config)
    config.test_time_augmentation = views
    result = evaluate.evaluate_weights(found, digits.test, config)
    assert (result.loss, result.accuracy) == (plain.loss, plain.accuracy)
    assert plain.augmented is None
    images = digits.test.images
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    shifts = [(images, 1.0)]
    if views == "mirror_and_shift":
        shifts = [(images, 0.5), (padded[:, :8, :8], 0.25), (padded[:, 2:, 2:], 0.25)]
    logits = sum(
        weight * (logits_in_float64(found, x) + logits_in_float64(found, x[:, :, ::-1])) / 2
        for x, weight in shifts
    )
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss = -logits[np.arange(360), digits.test.labels].mean()
    assert result.augmented.loss == pytest.approx(loss, rel=1e-5)
    assert result.augmented.accuracy == np.mean(logits.argmax(axis=1) == digits.test.labels)
    said = result.to_dict()["test_time_augmentation"]
    assert said["views"] == views
    assert said["accuracy"] == result.augmented.accuracy


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": {"name": "mlp"}}, "params/dense1/bias is not in the file"),
        ({"model": {"name": "linear", "dropout": 0.5}}, 'no option "dropout"'),
        ({"model": {"name": "nothing"}}, 'no model "nothing"'),
        ({"model": {"name": "linear", "num_classes": 3}}, "lack a valid 'model'"),
        ({"class_names": ("a", "b")}, "params/head/kernel: 192x10 in the file, 192x2 here"),
        ({"image_size": 9}, "params/head/kernel: 192x10 in the file, 243x10 here"),
    ],
)
def test_weights_that_do_not_fit_what_they_say_are_refused(found, tmp_path, changes, says):
    path = tmp_path / "w.safetensors"
    weights.save(path, dataclasses.replace(found, **changes))
    with pytest.raises(UserError) as caught:
        find.find_weights(str(path), "", default.get_config())
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_of_enlarged_images_take_small_ones_everywhere(found, pictures, tmp_path):
    """Weights trained on 4x4 images enlarged to 8x8: evaluation and prediction enlarge in the same way."""
    config = default.get_config()
    config.dataset.name, config.dataset.image_size = "digits", 8
    config.model.name = "linear"
    rng = np.random.default_rng(0)
    # Enlarging does not change images of one colour.
    small = np.broadcast_to(rng.integers(0, 256, (20, 1, 1, 3), np.uint8), (20, 4, 4, 3))
    split = datasets.Split(small, rng.integers(0, 10, 20).astype(np.int32))
    dataset = datasets.Dataset(
        "digits", split, split, None, found.class_names, found.mean, found.std, enlarged_from=4
    )
    data = datasets.describe(dataset)
    weights.save(
        tmp_path / "w.safetensors",
        make.inference_weights(config, data, found.variables | {"batch_stats": {}}, 1),
    )
    enlarged = weights.load(tmp_path / "w.safetensors")
    large = datasets.Split(np.broadcast_to(small[:, :1, :1], (20, 8, 8, 3)), split.labels)
    ours, theirs = (evaluate.evaluate_weights(enlarged, x, config) for x in (split, large))
    np.testing.assert_array_equal(ours.confusion, theirs.confusion)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)

    assert predict.picture_size(enlarged) == 4
    assert predict.picture_size(found) == 8
    first = str(pictures / "0.png")
    answers, _ = predict.predict_files(enlarged, [first])
    expected = predict.probabilities(found, load_picture(first, 4)[None])
    assert answers[0]["classes"][0]["probability"] == pytest.approx(expected.max(), rel=1e-5)


def test_weights_of_another_run_have_a_result_of_their_own(trained, tmp_path):
    workdir, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(trained.workdir, workdir)
    shutil.copytree(trained.workdir, other)
    answer = trained.call("--mode=eval", f"--workdir={workdir}")
    assert answer.status == 0, answer
    own = (workdir / "confusion_best.png").stat().st_mtime_ns
    for path in (other / "best.safetensors", workdir / "best.safetensors"):
        answer = trained.call("--mode=eval", f"--workdir={workdir}", f"--weights={path}")
        assert answer.status == 0, answer
        report = json.loads((workdir / "report.json").read_text())
        assert sorted(report["eval"]) == ["best", "other-best"]
        assert (workdir / "confusion_other-best.png").exists()
        kept = (workdir / "confusion_best.png").stat().st_mtime_ns == own
        assert kept == (path.parent == other)
