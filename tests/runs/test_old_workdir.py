"""A workdir of an older version, interrupted in the middle of an epoch, still works.

Commit 8659130 wrote `interrupted_run.tar.xz`: three epochs of softmax regression on digits of 4x4 pixels,
stopped by SIGTERM at step 15 of 33. The archive omits the two plots and the TensorBoard events.
"""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import cli, runs

ARCHIVE = Path(__file__).with_name("interrupted_run.tar.xz")
# Python 3.11.4 has brought the argument, and 3.12 warns where it is missing.
SAFE = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


@pytest.fixture
def workdir(tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, **SAFE)
    return tmp_path / "run"


@pytest.fixture(scope="module")
def uninterrupted(folder):
    """The same recipe, trained without an interruption by the current program."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extract("run/config.json", folder, **SAFE)
    answer = cli.call(
        folder, f"--config=configs/rerun.py:{folder}/run", f"--workdir={folder}/whole"
    )
    assert answer.status == 0, answer
    return folder / "whole"


def test_it_is_resumed_in_the_middle_of_the_epoch(workdir, uninterrupted, folder):
    before = runs.read_metrics(workdir)
    answer = cli.call(folder, f"--workdir={workdir}")
    assert answer.status == 0, answer
    assert "after epoch 1, step 4 of 11" in answer.out
    after = runs.read_metrics(workdir)
    assert after[0] == before[0]
    assert [entry["epoch"] for entry in after] == [1, 2, 3]
    # The machine that began the run may round differently from this one.
    whole = runs.read_metrics(uninterrupted)
    assert after[-1]["test_loss"] == pytest.approx(whole[-1]["test_loss"], rel=1e-4)
    state, expected = (runs.read_state(path, 33) for path in (workdir, uninterrupted))
    runs.assert_same_to_rounding(state, expected, limit=1e-4)


def test_it_is_evaluated_and_predicted_with(workdir, folder):
    accuracy = runs.read_metrics(workdir)[0]["test_accuracy"]
    evaluated = cli.call(folder, "--mode=eval", f"--workdir={workdir}", "--json")
    assert evaluated.status == 0, evaluated
    assert evaluated.json()["accuracy"] == pytest.approx(accuracy)
    picture = folder / "picture.png"
    Image.fromarray(np.full((4, 4, 3), 128, np.uint8)).save(picture)
    for weights in ("best", "latest"):
        flags = (f"--workdir={workdir}", f"--weights={weights}", f"--image={picture}", "--json")
        predicted = cli.call(folder, "--mode=predict", *flags)
        (prediction,) = predicted.json()["predictions"]
        assert len(prediction["classes"]) == 5


def test_it_is_compared(workdir, folder):
    answer = cli.call(folder, "--mode=compare", f"--workdir={workdir}")
    assert answer.status == 0, answer
    accuracy = json.loads((workdir / "metrics.jsonl").read_text())["test_accuracy"]
    assert f"{100 * accuracy:.1f}" in answer.out
