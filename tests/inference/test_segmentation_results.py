"""Mean IoU against numbers derived by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from cifar_jax.data.masks import VOID
from cifar_jax.inference import SegmentationResult
from cifar_jax.pages import segmentation as page


def test_by_hand():
    # Class a: 3 right, 1 taken for b, 0 others taken for it: 3 / 4. Class b: 2 right, 0 missed, 1 + 2 taken
    # for it: 2 / 5. Class c: 1 right, 2 taken for b: 1 / 3. Class d does not occur.
    confusion = np.array([[3, 1, 0, 0], [0, 2, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0]])
    result = SegmentationResult(0.5, confusion, tuple("abcd"))
    assert result.iou_per_class == {"a": 3 / 4, "b": 2 / 5, "c": 1 / 3, "d": None}
    assert result.mean_iou == pytest.approx((3 / 4 + 2 / 5 + 1 / 3) / 3)
    assert result.accuracy == 6 / 9
    assert result.to_text().splitlines()[0] == (
        "mean IoU 49.44%, accuracy 66.67% of 9 pixels, loss 0.5000"
    )
    assert result.to_text().splitlines()[-1] == "  d  -"


@pytest.mark.parametrize("seed", range(5))
def test_random_masks_with_void_as_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    label = rng.choice(np.uint8([0, 1, 2, 4, VOID]), (9, 11))
    prediction = rng.choice(np.uint8([0, 1, 2, 3, 4]), (9, 11))
    mean_iou, accuracy = page.of_picture(label, prediction, 6)
    counted = label != VOID
    truth, guess = label[counted], prediction[counted]
    assert mean_iou == pytest.approx(jaccard_score(truth, guess, average="macro"))
    assert accuracy == (truth == guess).mean()


def test_a_picture_without_classes_is_not_shown():
    assert page.of_picture(np.full((2, 2), VOID, np.uint8), np.zeros((2, 2), np.uint8), 3) is None
    scores = [(0.1 * i, 0.5) for i in range(30)]
    worst, sample = page.choose([None, *scores])
    assert worst == list(range(1, 13))
    assert (sample[0], sample[-1], len(sample)) == (13, 30, 12)
