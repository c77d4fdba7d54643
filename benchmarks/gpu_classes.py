"""Writes the classes and probabilities that a bundled network gives to test images.

Arguments: the network, the .npz file to write, the data set, and how many images."""

import sys

import numpy as np

from cifar_jax.data import datasets
from cifar_jax.inference import find_weights, predict
from configs import default

if __name__ == "__main__":
    name, path, dataset, count = sys.argv[1:]
    config = default.get_config()
    weights = find_weights(name, "", config)
    config.dataset.name = dataset
    images = datasets.load(config.dataset, config.seed).test.images[: int(count)]
    rows = predict.probabilities(weights, images)
    np.savez(path, classes=rows.argmax(1), probabilities=rows)
