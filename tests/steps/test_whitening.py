"""The whitening layer: its kernel equals NumPy's, and comes from the right images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_jax.data import datasets
from cifar_jax.data.datasets import Dataset, Split
from cifar_jax.inference import weights
from cifar_jax.inference.make import inference_weights
from cifar_jax.models import layers
from cifar_jax.steps import whitening
from cifar_jax.training import run
from configs import default


def smooth_images(count, side, seed=0):
    """uint8 [count, side, side, 3] with correlated neighbouring pixels and channels, as in photos."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count, side + 2, side + 2, 3))
    near = sum(noise[:, y : y + side, x : x + side] for y in range(3) for x in range(3))
    mixed = near @ np.array([[1, 0.8, 0.7], [0.2, 1, 0.6], [0.1, 0.3, 1]])
    return np.clip(128 + 20 * mixed, 0, 255).astype(np.uint8)


def patches_of(images):
    """All patches as [N, 12], in the order row, column, channel."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (2, 2), axis=(1, 2))
    return windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 12)


def test_answers_to_the_images_are_uncorrelated_and_of_mean_square_one():
    images = (smooth_images(60, 9) / 255 - 0.5) / 0.25
    kernel = np.asarray(whitening.kernel(jnp.float32(images)))
    module = layers.Whitening()
    variables = {"params": {"bias": np.zeros(24, np.float32)}, "batch_stats": {"kernel": kernel}}
    answers = np.asarray(module.apply(variables, jnp.float32(images)))
    assert answers.shape == (60, 8, 8, 24)
    np.testing.assert_allclose(answers[..., 12:], -answers[..., :12], atol=1e-5)
    answers = answers[..., :12].reshape(-1, 12).astype(np.float64)
    patches = patches_of(images)
    values = np.linalg.eigvalsh(patches.T @ patches / len(patches))[::-1]
    # EPSILON (5e-4) shrinks directions whose variance is not much larger.
    expected = np.diag(values / (values + 5e-4))
    np.testing.assert_allclose(answers.T @ answers / len(answers), expected, atol=2e-3)
    assert values[0] > 20 * values[5]
    assert np.abs(np.diag(expected)[:6] - 1).max() < 0.02


def make_run(config, images):
    labels = np.arange(len(images), dtype=np.int32) % 10
    split = Split(images, labels)
    names = tuple("abcdefghij")
    return run.create_run(
        config, "", Dataset("x", split, split, None, names, (0.5,) * 3, (0.25,) * 3)
    )


IMAGES, OTHER_IMAGES = (smooth_images(16, 9, seed) for seed in (0, 1))


def kernel_of(images):
    """The kernel from the normalised images."""
    return whitening.kernel(jnp.float32((images / 255 - 0.5) / 0.25))


@pytest.fixture(scope="module")
def config():
    config = default.get_config()
    config.model.name = "resnet8_v2"
    config.model.width = 0.125
    config.model.whitening = True
    config.dataset.image_size = 9
    config.batch_size = 8
    config.ema_decay = 0.9
    return config


@pytest.fixture(scope="module")
def first(config):
    return jax.device_get(run.first_state(make_run(config, IMAGES)))


def test_the_first_state_has_the_kernel_of_the_normalised_training_images(first):
    kernel = first.batch_stats["whitening"]["kernel"]
    np.testing.assert_allclose(kernel, kernel_of(IMAGES), rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(first.ema["batch_stats"]["whitening"]["kernel"], kernel)


def test_weights_from_elsewhere_bring_their_own_kernel(config, first, tmp_path):
    other_run = make_run(config, OTHER_IMAGES)
    variables = {"params": first.params, "batch_stats": first.batch_stats}
    data = datasets.describe(other_run.dataset)
    weights.save(tmp_path / "first.safetensors", inference_weights(config, data, variables, 1))
    config.init_from = str(tmp_path / "first.safetensors")
    state = run.first_state(other_run)
    for variables in (state.ema, {"batch_stats": state.batch_stats}):
        kernel = variables["batch_stats"]["whitening"]["kernel"]
        np.testing.assert_array_equal(kernel, first.batch_stats["whitening"]["kernel"])
        assert np.abs(kernel - kernel_of(OTHER_IMAGES)).max() > 0.1
