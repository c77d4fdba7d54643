"""Plots: equal input gives equal files, and what matters can be seen in them."""

import numpy as np
import pytest
from PIL import Image

from cifar_jax.reporting import plots
from tests.helpers.histories import entry


def size(path):
    with Image.open(path) as picture:
        return picture.size


@pytest.mark.parametrize("validation", [False, True])
@pytest.mark.parametrize("epochs", [1, 3])
def test_history_is_plotted_the_same_each_time(tmp_path, epochs, validation):
    history = [entry(epoch, validation) for epoch in range(1, epochs + 1)]
    for name in ("a.png", "b.png"):
        plots.plot_history(tmp_path / name, history, "$cost_ in the title")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert b"matplotlib" not in (tmp_path / "a.png").read_bytes()
    history[-1]["test_loss"] *= 1.5
    plots.plot_history(tmp_path / "b.png", history, "$cost_ in the title")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("classes", [1, 10, 30, 150])
def test_confusion_of_any_size(tmp_path, classes):
    confusion = np.eye(classes, dtype=int) * 7
    confusion[0] = 0  # a class without examples
    names = [f"$automobile{index}" for index in range(classes)]
    plots.plot_confusion(tmp_path / "c.png", confusion, names)
    assert min(size(tmp_path / "c.png")) > 350


def test_a_confusion_is_dark_where_the_share_is_large(tmp_path):
    # All of "a" and "b" are predicted as "b": the right column is dark, the left one light.
    plots.plot_confusion(tmp_path / "c.png", np.array([[0, 9], [0, 900]]), ["a", "b"])
    with Image.open(tmp_path / "c.png") as picture:
        grey = np.asarray(picture.convert("L")).astype(int)
    dark = grey[:, : int(0.75 * grey.shape[1])] < 100  # without the colour bar
    columns = np.flatnonzero(dark.mean(axis=0) > 0.5)
    assert len(columns) > 50
    assert columns.min() > 0.35 * grey.shape[1]


def test_a_batch_is_shown_as_it_was_before_normalisation(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (70, 32, 32, 3), np.uint8)
    mean, std = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
    images = ((pixels / 255 - mean) / std).astype(np.float32)
    labels = [f"${index % 10} automobile" for index in range(70)]
    plots.plot_batch(tmp_path / "b.png", images, labels, mean, std)
    with Image.open(tmp_path / "b.png") as picture:
        sheet = np.asarray(picture.convert("RGB"))
    # Each pixel is drawn as 4x4: search for the images, wherever the layout puts them.
    tiles = sheet[10 : 10 + 128 : 4, 10 : 10 + 128 : 4]
    np.testing.assert_array_equal(tiles, pixels[0])
    last = pixels[63].repeat(4, 0).repeat(4, 1)
    windows = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], (128, 128))[-60:, -60:]
    assert (windows == last[..., 0]).all(axis=(-1, -2)).sum() == 1


def test_a_batch_smaller_than_the_grid_and_out_of_range(tmp_path):
    # Values outside of the range are clipped; they must not wrap around.
    images = np.full((3, 8, 8, 3), 100.0, np.float32)
    plots.plot_batch(tmp_path / "b.png", images, ["a"] * 3, (0, 0, 0), (1, 1, 1))
    with Image.open(tmp_path / "b.png") as picture:
        assert np.asarray(picture.convert("L"))[:120].min() == 255
