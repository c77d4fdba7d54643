"""The bundled networks: each has a card with true figures and is found by its name."""

import os
import re

import numpy as np
import pytest

from cifar_jax.errors import UserError
from cifar_jax.inference import find as inference
from cifar_jax.inference import init_from, predict, pretrained
from configs import default

FOLDER = os.path.dirname(pretrained.__file__)


@pytest.fixture(params=pretrained.names())
def name(request):
    return request.param


def find(which):
    return inference.find_weights(which, "", default.get_config())


def card(name: str) -> str:
    with open(os.path.join(FOLDER, f"{name}.md"), encoding="utf-8") as file:
        return file.read()


def card_accuracy(name: str) -> float:
    """The test accuracy on the card, as a fraction."""
    return float(re.search(r"\| test accuracy \| ([\d.]+) % \|", card(name))[1]) / 100


def test_there_is_the_one_that_predicts_by_default():
    assert pretrained.DEFAULT in pretrained.names()


def test_each_is_small_and_has_a_card_of_how_it_was_made(name):
    assert os.path.getsize(pretrained.resolve(name)) < 10e6
    text = card(name)
    for words in ("python main.py --config=configs/", "JPEG copy of CIFAR-10", "seed", "epochs"):
        assert words in text
    found = find(name)
    for class_name in found.class_names:
        assert re.search(rf"\| {class_name} \| [\d.]+ % \|", text)


@pytest.mark.skipif(not os.environ.get("TFDS_DATA_DIR"), reason="no TFDS_DATA_DIR")
def test_each_is_as_accurate_as_its_card_says(name):
    import tensorflow_datasets as tfds

    source = tfds.data_source("cifar10", split="test", data_dir=os.environ["TFDS_DATA_DIR"])
    examples = [source[i] for i in range(600)]
    rows = predict.probabilities(find(name), np.stack([example["image"] for example in examples]))
    accuracy = np.mean(rows.argmax(axis=1) == [example["label"] for example in examples])
    said = card_accuracy(name)
    # Four standard errors of an accuracy on 600 images.
    assert abs(accuracy - said) < 4 * np.sqrt(said * (1 - said) / len(examples))


def test_a_name_is_found_unless_a_file_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pretrained.resolve("resnet20_v2") != "resnet20_v2"
    assert pretrained.resolve("nothing") == "nothing"
    (tmp_path / "resnet20_v2").write_text("something else")
    assert pretrained.resolve("resnet20_v2") == "resnet20_v2"
    with pytest.raises(UserError, match="neither a safetensors"):
        find("resnet20_v2")


def test_it_may_be_started_from(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = default.get_config()
    config.init_from = "resnet20_v2"
    config.model.name = "resnet20_v2"
    init_from.check(config)
    config.model.name = "lenet"
    with pytest.raises(UserError, match="weights of resnet20_v2, which do not fit"):
        init_from.check(config)
