"""Calibration, checked against numbers worked out by hand."""

import numpy as np
import pytest

from cifar_jax.inference.calibration import BINS, calibrate


def test_two_bins_by_hand():
    # Three predictions at 0.9, two of them right. Two at 0.6, both wrong.
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    got = calibrate(probabilities, np.array([0, 1, 1, 1, 0]))
    assert got.count.sum() == 5
    assert got.count[13] == 3  # 0.9 is in (13/15, 14/15]
    assert got.count[8] == 2  # 0.6 = 9/15 is the upper edge of its bin
    assert got.accuracy[13] == pytest.approx(2 / 3)
    assert got.confidence[8] == pytest.approx(0.6)
    assert got.expected_error == pytest.approx(3 / 5 * (0.9 - 2 / 3) + 2 / 5 * 0.6)
    assert [entry["images"] for entry in got.to_dict()["bins"]] == [2, 3]


def test_a_sure_and_right_network_has_no_error():
    got = calibrate(np.eye(4), np.arange(4))
    assert got.expected_error == 0
    assert got.count[BINS - 1] == 4


def test_what_says_as_often_as_it_is_right_has_hardly_any_error():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(5), 200_000)
    labels = (probabilities.cumsum(1) > rng.random((200_000, 1))).argmax(1)
    assert calibrate(probabilities, labels).expected_error < 0.01
    assert calibrate(probabilities, (labels + 1) % 5).expected_error > 0.2
