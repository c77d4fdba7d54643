"""Tests on the real CIFAR images, if this machine has them.

TFDS_DATA_DIR is a folder of prepared TFDS sets with cifar10 in it. CIFAR_JAX_ARCHIVES is a folder with
`cifar-10-batches-py` and `cifar-100-python`, complete or in part. If a variable is not set, its tests are
skipped.
"""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from cifar_jax.data import datasets
from configs import default
from tests.helpers import data_files as fixtures

needs_tfds = pytest.mark.skipif(not os.environ.get("TFDS_DATA_DIR"), reason="no TFDS_DATA_DIR")
needs_archives = pytest.mark.skipif(
    not os.environ.get("CIFAR_JAX_ARCHIVES"), reason="no CIFAR_JAX_ARCHIVES"
)


@pytest.fixture
def config(tmp_path):
    config = default.get_config().dataset
    config.cache_dir = str(tmp_path / "cache")
    return config


@needs_tfds
def test_cifar10_as_tfds_prepared_it(config):
    data = datasets.load(config, seed=0)
    assert data.train.images.shape == (50_000, 32, 32, 3)
    assert data.test.images.shape == (10_000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(data.train.labels), [5000] * 10)
    np.testing.assert_array_equal(np.bincount(data.test.labels), [1000] * 10)
    assert data.class_names == tuple(fixtures.CIFAR10_NAMES)
    # The published values of the lossless images. Copies that went through JPEG (30 dB) keep the mean and
    # have a slightly smaller deviation.
    np.testing.assert_allclose(data.mean, (0.4914, 0.4822, 0.4465), atol=5e-4)
    np.testing.assert_allclose(data.std, (0.2470, 0.2435, 0.2616), atol=2e-3)
    # TFDS decodes a few images to the same pixels.
    import tensorflow_datasets as tfds

    for split, images in (("train", data.train), ("test", data.test)):
        source = tfds.data_source("cifar10", split=split, data_dir=os.environ["TFDS_DATA_DIR"])
        for index in (0, 1234, 9999):
            example = source[index]
            np.testing.assert_array_equal(images.images[index], example["image"])
            assert images.labels[index] == example["label"]
    # Later starts read the same pixels from the cache.
    again = datasets.load(config, seed=0)
    np.testing.assert_array_equal(again.train.images, data.train.images)
    config.update({"train_examples": 1000, "validation_examples": 500})
    part = datasets.load(config, seed=0)
    np.testing.assert_array_equal(np.bincount(part.train.labels), [100] * 10)
    np.testing.assert_array_equal(np.bincount(part.validation.labels), [50] * 10)
    assert part.mean == data.mean


def unpickled(*path: str) -> dict:
    content = Path(os.environ["CIFAR_JAX_ARCHIVES"], *path).read_bytes()
    return pickle.loads(content, encoding="bytes")


@needs_archives
@pytest.mark.parametrize("size", [24, 32])
def test_cifar10_from_the_official_folder(config, size):
    config.update({"archive": os.environ["CIFAR_JAX_ARCHIVES"], "image_size": size})
    data = datasets.load(config, seed=0)
    batches = [unpickled("cifar-10-batches-py", f"data_batch_{i}") for i in range(1, 6)]
    rows = np.concatenate([batch[b"data"] for batch in batches])
    labels = [label for batch in batches for label in batch[b"labels"]]
    np.testing.assert_array_equal(data.train.labels, labels)
    assert data.class_names == tuple(fixtures.CIFAR10_NAMES)
    assert data.train.images.shape == (len(labels), size, size, 3)
    if size == 32:
        # The red, green and blue planes in turn, each row by row: https://www.cs.toronto.edu/~kriz/cifar.html
        np.testing.assert_array_equal(data.train.images[:, 3, 5, 1], rows[:, 1024 + 3 * 32 + 5])
        np.testing.assert_array_equal(data.train.images[:, 31, 0, 2], rows[:, 2048 + 31 * 32])


@needs_archives
@pytest.mark.parametrize("kind", ["fine", "coarse"])
def test_cifar100_from_the_official_folder(config, kind):
    config.update({"name": "cifar100", "labels": kind})
    config.archive = os.environ["CIFAR_JAX_ARCHIVES"]
    data = datasets.load(config, seed=0)
    meta = unpickled("cifar-100-python", "meta")
    assert [name.encode() for name in data.class_names] == meta[f"{kind}_label_names".encode()]
    for split, name in ((data.train, "train"), (data.test, "test")):
        batch = unpickled("cifar-100-python", name)
        np.testing.assert_array_equal(split.labels, batch[f"{kind}_labels".encode()])
        np.testing.assert_array_equal(
            split.images.reshape(-1), batch[b"data"].reshape(-1, 3, 1024).swapaxes(1, 2).ravel()
        )
