"""The worker of the rival's side: calls the script's `main` for each seed it reads from standard input.

The script runs unchanged. Its loader finds our images in the file that it would write after a download, and
its results are read from the variables that it would print. Its clock counts whitening, training and
evaluation with test-time augmentation. It does not count evaluation after each epoch, drawing the initial
weights, or compilation.
"""

import contextlib
import importlib.util
import os
import sys
import tempfile
from importlib import metadata

import torch

from benchmarks import common


def load(script: str):
    """The script as a module. It reads its own source from sys.argv[0]."""
    sys.argv[0] = script
    spec = importlib.util.spec_from_file_location("rival", script)
    module = importlib.util.module_from_spec(spec)
    # torch.compile looks up the module of what it compiles.
    sys.modules["rival"] = module
    spec.loader.exec_module(module)
    return module


def write_images(data: str, path: str) -> None:
    images, labels = common.load_images(data)
    classes = [str(i) for i in range(common.CLASSES)]
    content = {
        "images": torch.tensor(images),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "classes": classes,
    }
    torch.save(content, path)


def create_run(module):
    """run(seed), with a model that the script compiles in an untimed first run."""
    model = module.CifarNet().cuda().to(memory_format=torch.channels_last)
    model.compile(mode="max-autotune")
    seen = {}
    module.print_training_details = lambda variables, is_final_entry: seen.update(variables)

    def run(seed):
        torch.manual_seed(seed)
        with contextlib.redirect_stdout(sys.stderr):
            augmented = module.main(seed, model)
        return {
            "accuracy": seen["val_acc"],
            "augmented_accuracy": augmented,
            "with_evaluation": seen["time_seconds"],
        }

    module.main("warmup", model)
    return run


def facts() -> dict:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"versions": {"torch": metadata.version("torch")}, "device": device}


if __name__ == "__main__":
    script, train, test = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.mkdir("cifar10")
        write_images(train, "cifar10/train.pt")
        write_images(test, "cifar10/test.pt")
        common.serve(facts(), create_run(load(script)))
