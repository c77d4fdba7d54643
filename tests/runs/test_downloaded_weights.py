"""A network that was trained elsewhere is evaluated, predicted with and exported with the recipe's data set.

The other side is PyTorch: a network with the names of akamaster/pytorch_resnet_cifar10.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar_jax.data import datasets
from cifar_jax.errors import UserError
from cifar_jax.inference import find_weights, weights
from configs import default
from tests.helpers import cli

torch = pytest.importorskip("torch")
from tests.helpers import repository_names, torchvision_names  # noqa: E402

MEAN, STD = (0.3, 0.4, 0.5), (0.25, 0.5, 0.125)


@dataclasses.dataclass(frozen=True)
class Downloaded:
    """A file of weights, the recipe that fits it, and what PyTorch says about the test digits."""

    folder: Path
    file: Path
    recipe: tuple[str, ...]
    images: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray

    def call(self, *args) -> cli.Answer:
        return cli.call(self.folder, *(str(arg) for arg in args), cwd=self.folder)


@pytest.fixture(scope="module")
def downloaded(folder) -> Downloaded:
    network = repository_names.akamaster((1, 1, 1), 10, width=4)
    network = torchvision_names.randomise(network)
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 91.7}, folder / "resnet8.th")
    recipe = folder / "recipe.py"
    recipe.write_text(
        "from configs import default\n\n\ndef get_config():\n"
        "    config = default.get_config()\n"
        "    config.dataset.name, config.dataset.image_size = 'digits', 8\n"
        f"    config.dataset.mean, config.dataset.std = {MEAN}, {STD}\n"
        f"    config.dataset.cache_dir = {str(folder / 'images')!r}\n"
        "    config.model.name, config.model.width = 'resnet8_v1', 0.25\n"
        "    config.model.shortcut = 'zero_padding'\n"
        "    return config\n"
    )
    config = default.get_config().dataset
    config.name, config.image_size, config.cache_dir = "digits", 8, str(folder / "images")
    test = datasets.load(config, seed=0).test
    inputs = (test.images / 255 - np.array(MEAN)) / np.array(STD)
    with torch.no_grad():
        inputs = torch.from_numpy(inputs.transpose(0, 3, 1, 2).astype(np.float32))
        probabilities = torch.softmax(network(inputs), 1).numpy()
    file = folder / "resnet8.th"
    return Downloaded(
        folder, file, (f"--config={recipe}",), test.images, test.labels, probabilities
    )


def test_evaluation_gives_what_pytorch_gives(downloaded):
    start = (*downloaded.recipe, f"--config.init_from={downloaded.file}")
    answer = downloaded.call("--mode=eval", *start, "--json")
    assert answer.status == 0, answer
    right = downloaded.probabilities.argmax(1) == downloaded.labels
    assert answer.json()["accuracy"] == np.mean(right)
    chosen = downloaded.probabilities[np.arange(360), downloaded.labels]
    assert answer.json()["loss"] == pytest.approx(-np.log(chosen).mean(), rel=1e-5)
    assert answer.json()["weights"] == str(downloaded.file)


def test_prediction_gives_what_pytorch_gives(downloaded):
    picture = downloaded.folder / "digit.png"
    Image.fromarray(downloaded.images[0]).save(picture)
    args = ("--mode=predict", *downloaded.recipe, f"--weights={downloaded.file}")
    answer = downloaded.call(*args, f"--image={picture}", "--json")
    assert answer.status == 0, answer
    (prediction,) = answer.json()["predictions"]
    row = downloaded.probabilities[0]
    for entry in prediction["classes"]:
        assert entry["probability"] == pytest.approx(row[int(entry["name"])], abs=1e-6)


def test_the_exported_weights_hold_the_network_and_the_facts_of_the_recipe(downloaded):
    output = downloaded.folder / "exported.safetensors"
    args = ("--mode=export", *downloaded.recipe, f"--weights={downloaded.file}")
    answer = downloaded.call(*args, f"--output={output}")
    assert answer.status == 0, answer
    found = weights.load(output)
    assert (found.mean, found.std, found.image_size) == (MEAN, STD, 8)
    assert found.class_names == tuple("0123456789")
    assert found.model == {
        "name": "resnet8_v1",
        "dtype": "float32",
        "width": 0.25,
        "shortcut": "zero_padding",
    }


def test_what_does_not_fit_is_refused(downloaded):
    answer = downloaded.call("--mode=eval", f"--weights={downloaded.file}")
    assert "of resnet8_v1 with model.shortcut=zero_padding: give a recipe" in answer.refusal()
    config = default.get_config()
    config.dataset.update({"name": "digits", "image_size": 8})
    config.dataset.cache_dir = str(downloaded.folder / "images")
    config.model.update({"name": "resnet8_v1", "width": 0.25, "shortcut": "projection"})
    with pytest.raises(UserError, match=r"which do not fit config\.model"):
        find_weights(str(downloaded.file), "", default.get_config(), config)
    config.model.shortcut = "zero_padding"
    state = torch.load(downloaded.file, weights_only=True)["state_dict"]
    classes = {"module.linear.bias": torch.zeros(7), "module.linear.weight": torch.zeros(7, 16)}
    for name, change in {
        "classes": classes,
        "extra": {"module.layer1.0.fc1.weight": torch.zeros(2)},
    }.items():
        torch.save(state | change, downloaded.folder / name)
        says = r"does not fit the recipe \(resnet8_v1 for 10 classes\) without training"
        with pytest.raises(UserError, match=says):
            find_weights(str(downloaded.folder / name), "", default.get_config(), config)


def test_a_run_and_its_weights_are_found_by_init_from_too(trained, tmp_path):
    by_workdir = trained.call("--mode=eval", f"--workdir={trained.workdir}", "--json").json()
    recipe = f"--config={cli.runs.ROOT}/configs/rerun.py:{trained.workdir}"
    for start in (trained.workdir, trained.workdir / "best.safetensors"):
        answer = trained.call(
            "--mode=eval", recipe, f"--config.init_from={start}", "--json", cwd=tmp_path
        )
        assert answer.status == 0, answer
        assert answer.json() | {"weights": "best"} == by_workdir
