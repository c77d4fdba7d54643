"""The page of a segmentation network's evaluation in a browser, on a wide and on a narrow screen."""

from pathlib import Path

import numpy as np
import pytest

from cifar_jax.data.masks import VOID, default_colours
from cifar_jax.inference import SegmentationResult
from cifar_jax.pages import segmentation as page

NAMES = ("<script>alert(1)</script>", "a long name without a space" * 3, "sky", "never")


@pytest.fixture(scope="module")
def written(folder):
    rng = np.random.default_rng(0)
    labels = rng.choice(np.uint8([0, 1, 2, VOID]), (30, 40, 40))
    predictions = np.where(rng.random(labels.shape) < 0.6, labels % 3, 0).astype(np.uint8)
    images = rng.integers(0, 256, (30, 40, 40, 3), np.uint8)
    counted = labels != VOID
    cells = labels[counted].astype(int) * 4 + predictions[counted]
    confusion = np.bincount(cells, minlength=16).reshape(4, 4)
    result = SegmentationResult(0.7, confusion, NAMES, predictions)
    colours = default_colours(4)
    return result, page.write(str(folder), result, images, labels, colours, "net on <set>", "w")


@pytest.mark.parametrize("width", [1280, 360])
def test_in_a_browser(written, width, opened):
    result, path = written
    shown = opened(path)
    shown.set_viewport_size({"width": width, "height": 900})
    assert set(shown.seen) == {Path(path).as_uri()}
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    pictures = shown.locator(".triples img")
    assert pictures.count() == page.WORST + page.SAMPLE
    assert pictures.first.evaluate("image => image.naturalWidth") == 3 * 40 + 2
    assert f"{100 * result.mean_iou:.2f} %" in shown.locator(".figures").inner_text()
    rows = shown.locator(".classes tbody")
    assert rows.count() == 4
    assert "never" in rows.last.inner_text()
    # By name, after a click on the heading.
    shown.locator(".classes thead button").first.click()
    assert NAMES[0] in rows.first.inner_text()
    matrix = shown.locator(".matrix tbody tr").nth(2).locator("td")
    share = 100 * result.confusion[2, 2] / result.confusion[2].sum()
    assert matrix.nth(2).inner_text() == f"{share:.1f}"
