"""A segmentation run as a user sees it: trained, resumed, evaluated, used, exported and compared."""

import json

import numpy as np
import pytest
from PIL import Image

import cifar_jax
from tests.helpers import cli, runs

FIELDS = {
    "num_epochs": 2,
    "batch_size": 16,
    "dataset.name": "mosaic",
    "dataset.tiles": "digits",
    "dataset.image_size": 16,
    "dataset.train_scenes": 48,
    "dataset.test_scenes": 24,
    "augment.crop_padding": 1,
    "model.name": "resnet8_v1",
    "model.width": 0.25,
    "model.fcn_stride": 2,
    "lr_schedule.name": "constant",
}


def arguments(workdir, fields):
    given = [f"--config.{name}={value}" for name, value in fields.items()]
    return ["--config=configs/default.py", *given, f"--workdir={workdir}"]


@pytest.fixture(scope="module")
def run(folder):
    """A run that was stopped after its first epoch and resumed."""
    workdir = folder / "run"
    for epochs in (1, 2):
        answer = cli.call(folder, *arguments(workdir, FIELDS | {"num_epochs": epochs}), draws=True)
        assert answer.status == 0, answer
    return workdir


def test_the_files_of_a_run_and_its_figures(run):
    assert (run / "first_batch.png").exists()
    assert (run / "history.png").exists()
    first, last = runs.read_metrics(run)
    report = json.loads((run / "report.json").read_text())
    test, matrix = report["test"], np.array(report["test"]["confusion_matrix"])
    assert test["pixels"] == matrix.sum() == 24 * 16 * 16
    assert test["mean_iou"] == last["test_mean_iou"]
    assert test["accuracy"] == last["test_accuracy"] == np.trace(matrix) / matrix.sum()
    best = max((first, last), key=lambda entry: entry["test_mean_iou"])
    assert report["best"]["epoch"] == best["epoch"]
    assert 0 < last["train_accuracy"] < 1


def test_a_resumed_run_ends_with_the_bits_of_an_untouched_one(run, folder):
    answer = cli.call(folder, *arguments(folder / "untouched", FIELDS), draws=True)
    assert answer.status == 0, answer
    for name in ("best.safetensors", "confusion_latest.png"):
        assert (run / name).read_bytes() == (folder / "untouched" / name).read_bytes()
    compared = cli.call(
        folder, "--mode=compare", f"--workdir={run}", f"--workdir={folder / 'untouched'}"
    )
    assert compared.status == 0, compared
    assert "final mean IoU" in compared.out
    page = (folder / "compare/index.html").read_text()
    assert "IoU per class" in page
    assert "accuracy" not in page.lower().split("<table", 1)[1].split("</table>", 1)[0]


def test_evaluation_repeats_the_figures_of_training(run, folder):
    answer = cli.call(folder, "--mode=eval", f"--workdir={run}", "--weights=latest", "--json")
    assert answer.json()["mean_iou"] == runs.read_metrics(run)[-1]["test_mean_iou"]
    assert "The worst pictures" in (run / "eval/index.html").read_text()
    refused = cli.call(folder, "--mode=eval", f"--weights={run}")
    assert "give the recipe of the data set" in refused.refusal()


def test_pictures_of_any_size_get_masks_and_overlays(run, folder):
    pictures = folder / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    sizes = {"a": (16, 16), "wide": (70, 31), "long": (3, 200)}
    for name, (width, height) in sizes.items():
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(pictures / f"{name}.png")
    out = folder / "masks"
    answer = cli.call(
        folder,
        "--mode=predict",
        f"--workdir={run}",
        f"--image={pictures}",
        f"--output={out}",
        "--json",
    )
    assert answer.status == 0, answer
    network = cifar_jax.load(run)
    for found in answer.json()["predictions"]:
        mask = Image.open(found["mask"])
        name = found["image"].rpartition("/")[2].removesuffix(".png")
        assert (mask.mode, mask.size) == ("P", sizes[name])
        values = np.asarray(mask)
        np.testing.assert_array_equal(network.segment(found["image"]), values)
        shares = {entry["name"]: entry["share"] for entry in found["classes"]}
        for number, count in zip(*np.unique(values, return_counts=True), strict=True):
            assert shares[network.class_names[number]] == pytest.approx(count / values.size)
        Image.open(found["overlay"]).verify()
    # A picture of the size of the network's inputs is segmented as in evaluation.
    whole = np.asarray(Image.open(pictures / "a.png"))
    forward = cifar_jax.inference.predict.compiled(network.weights)
    expected = np.argmax(forward(network.weights.variables, whole[None])[0], -1)
    np.testing.assert_array_equal(network.segment(whole), expected)


def test_what_does_not_fit_a_segmentation_network_is_refused(run, folder):
    use = ("--mode=predict", f"--workdir={run}", "--image=docs/pictures/photographs")
    assert "--fit is for classification" in cli.call(folder, *use, "--fit=pad").refusal()
    assert "without a suffix" in cli.call(folder, *use, "--output=x.png").refusal()
    network = cifar_jax.load(run)
    with pytest.raises(cifar_jax.UserError, match="call segment"):
        network.predict("docs/pictures/photographs/cat.jpg")
    with pytest.raises(cifar_jax.UserError, match="do not fit"):
        network.evaluate(cifar_jax.dataset("digits", image_size=16).test)
    with pytest.raises(cifar_jax.UserError, match="call predict"):
        cifar_jax.load().segment("docs/pictures/photographs/cat.jpg")
