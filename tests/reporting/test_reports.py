"""Metrics and reports: what is in the files, and numbers as people read them."""

import json
import math

import numpy as np
import pytest

from cifar_jax.reporting import reports
from tests.helpers.histories import entry


def test_json_takes_numpy_and_stays_json(tmp_path):
    values = {
        "accuracy": np.float32(0.5),
        "confusion": np.array([[1, 2]]),
        "sizes": (1, np.int64(2)),
        "name": "Fuß",
        "nan": [math.nan, np.float32(np.inf)],
        3: None,
    }
    reports.write_json(tmp_path / "r.json", values)

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    text = (tmp_path / "r.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=refuse) == {
        "accuracy": 0.5,
        "confusion": [[1, 2]],
        "sizes": [1, 2],
        "name": "Fuß",
        "nan": [None, None],
        "3": None,
    }


def test_epoch_line():
    line = reports.epoch_line(entry(3), 200)
    assert " ".join(line.split()) == (
        "epoch 3/200 lr 0.1 train 1.234 56.7 % test 1.100 61.2 % 1,234 img/s 40 s"
    )
    assert "validation 1.500  50.0 %" in reports.epoch_line(entry(3, validation=True), 200)
    first, last = reports.epoch_line(entry(3), 200), reports.epoch_line(entry(123), 200)
    assert first.index("train") == last.index("train")


@pytest.mark.parametrize(
    ("fraction", "text"), [(1.0, "100.0 %"), (0.9999, "99.9 %"), (0.98765, "98.8 %"), (0, "0.0 %")]
)
def test_only_all_correct_reads_as_a_hundred_percent(fraction, text):
    line = " ".join(reports.epoch_line(entry(1, test_accuracy=fraction), 1).split())
    assert f"test 1.100 {text} " in line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.44, "0.4 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.7, "1 min 0 s"),
        (725, "12 min 5 s"),
        (3599.9, "1 h 0 min"),
        (12000, "3 h 20 min"),
    ],
)
def test_duration(seconds, text):
    assert reports.duration(seconds) == text


def test_summary_says_which_split_the_best_was_chosen_on():
    history = [entry(1, True), entry(2, True, val_accuracy=0.75), entry(3, True)]
    best = {"epoch": 2, "chosen_on": "validation", "accuracy": 0.75}
    lines = reports.summary(history, best, ["runs/a/best.safetensors"]).splitlines()
    assert lines[0].split() == ["epoch", "train", "validation", "test"]
    assert lines[1].startswith("best on validation")
    assert "75.0 %" in lines[1]
    assert lines[2].startswith("last epoch")
    assert lines[3] == "3 epochs in 2 min 1 s"  # 3 * 40.3 s
    assert lines[-1].strip() == "runs/a/best.safetensors"


def test_summary_has_one_row_where_the_last_epoch_is_the_best():
    text = reports.summary([entry(1)], {"epoch": 1, "chosen_on": "test"}, [])
    assert "best on test" in text
    assert "last epoch" not in text
    assert "last epoch" in reports.summary([entry(1)], None, [])
