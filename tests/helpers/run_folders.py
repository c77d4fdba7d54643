"""Writes workdirs without training: the files that a comparison reads, with chosen figures."""

import json
from pathlib import Path

from cifar_jax import config as config_lib
from configs import default

CLASSES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def config(**fields):
    """The default recipe with some fields changed, such as {"model.name": "lenet"}."""
    changed = default.get_config()
    changed.model.name = "linear"
    with changed.unlocked():
        changed.update_from_flattened_dict(fields)
    return changed


def write_run(folder, accuracies, seconds=10.0, report=True, **fields) -> Path:
    """Writes a run that ended an epoch with each of the accuracies on the test images.

    Its recipe wants as many epochs, unless `num_epochs` is among the fields.
    """
    folder = Path(folder)
    folder.mkdir(parents=True)
    recipe = config(**{"num_epochs": max(len(accuracies), 1)} | fields)
    (folder / "config.json").write_text(config_lib.to_json(recipe))
    history = [
        {
            "epoch": epoch,
            "step": 100 * epoch,
            "learning_rate": 0.1,
            "train_loss": 2.0 / epoch,
            "train_accuracy": accuracy,
            "test_loss": 2.0 - accuracy,
            "test_accuracy": accuracy,
            "seconds": seconds,
            "images_per_second": 50000 / seconds,
        }
        for epoch, accuracy in enumerate(accuracies, start=1)
    ]
    if history:
        lines = [json.dumps(entry) + "\n" for entry in history]
        (folder / "metrics.jsonl").write_text("".join(lines))
    if report:
        per_class = {name: accuracies[-1] - 0.01 * i for i, name in enumerate(CLASSES)}
        made = {
            "dataset": {"class_names": list(CLASSES)},
            "final": history[-1],
            "test": {"accuracy_per_class": per_class},
            "device": "1 x cpu",
        }
        (folder / "report.json").write_text(json.dumps(made))
    return folder
