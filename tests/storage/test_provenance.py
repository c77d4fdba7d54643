"""A report says which code, data and settings gave its figures, and evaluation reproduces them."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from cifar_jax.data.datasets import Dataset, Split
from cifar_jax.storage import provenance
from tests.helpers import cli, runs


def split(first_pixel=0, first_label=0):
    images = np.zeros((2, 1, 1, 3), np.uint8)
    images[0, 0, 0, 0] = first_pixel
    return Split(images, np.array([first_label, 1], np.int32))


def dataset(train, validation=None):
    return Dataset("x", train, split(), validation, ("a", "b"), (0.0,) * 3, (1.0,) * 3)


def test_the_fingerprint_is_the_digest_of_every_pixel_and_label():
    found = provenance.dataset_fingerprint(dataset(split(7, 1)))
    by_hand = (
        b"(2, 1, 1, 3)" + bytes([7, 0, 0, 0, 0, 0]) + b"(2,)" + bytes([1, 0, 0, 0, 1, 0, 0, 0])
    )
    assert found["train"] == f"sha256:{hashlib.sha256(by_hand).hexdigest()}"
    assert found.keys() == {"train", "test"}
    others = [dataset(split(8, 1)), dataset(split(7, 0)), dataset(split(7, 1), split(3))]
    changed = [provenance.dataset_fingerprint(other) for other in others]
    assert changed[0]["train"] != found["train"] != changed[1]["train"]
    assert changed[2] == found | {"validation": changed[2]["validation"]}


def git(folder, *args):
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    done = subprocess.run(
        ["git", "-C", folder, *identity, *args], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_revision_says_whether_files_were_changed(tmp_path):
    repository = tmp_path / "code"
    (repository / "part").mkdir(parents=True)
    revision = provenance.revision.__wrapped__
    assert revision(str(repository)) is None
    git(repository, "init", "-q")
    (repository / "file").write_text("1")
    git(repository, "add", "file")
    git(repository, "commit", "-q", "-m", "one")
    commit = git(repository, "rev-parse", "HEAD")
    (repository / "untracked").write_text("2")
    assert revision(str(repository)) == commit
    (repository / "file").write_text("2")
    assert revision(str(repository)) == f"{commit}+dirty"
    # If the code is a copy inside another project, that project's commit is not its own.
    assert revision(str(repository / "part")) is None


def test_without_git_there_is_no_revision(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.revision.__wrapped__(str(runs.ROOT)) is None


@pytest.fixture(scope="module")
def worse_at_the_end(trained, tmp_path_factory):
    """A run whose last epoch is not its best: its learning rate is a thousand times higher."""
    workdir = tmp_path_factory.mktemp("worse") / "run"
    fields = ("num_epochs=3", "lr_schedule.boundaries=(2,)", "lr_schedule.factor=1000.0")
    answer = trained.call(
        f"--config={trained.recipe}", *(f"--config.{f}" for f in fields), f"--workdir={workdir}"
    )
    assert answer.status == 0, answer
    return workdir


def test_evaluation_gives_what_training_reported(trained, worse_at_the_end):
    entries = runs.read_metrics(worse_at_the_end)
    best = max(entries, key=lambda entry: entry["test_accuracy"])
    assert best["test_accuracy"] > entries[-1]["test_accuracy"]
    for which, entry in (("best", best), ("latest", entries[-1])):
        flags = ("--mode=eval", f"--workdir={worse_at_the_end}", f"--weights={which}", "--json")
        result = trained.call(*flags).json()
        assert result["epoch"] == entry["epoch"]
        assert result["accuracy"] == entry["test_accuracy"]
        assert result["loss"] == pytest.approx(entry["test_loss"], rel=1e-6)


def test_the_report_of_a_run_holds_what_it_takes_to_run_it_again(trained):
    report = json.loads((trained.workdir / "report.json").read_text())
    config = json.loads((trained.workdir / "config.json").read_text())
    assert {"format": report["format"], **report["config"]} == config
    assert report["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert report["dataset"]["fingerprint"].keys() == {"train", "test"}
    if os.path.isdir(runs.ROOT / ".git") or os.path.isfile(runs.ROOT / ".git"):
        assert report["revision"].startswith(git(runs.ROOT, "rev-parse", "HEAD"))


def test_a_recipe_run_again_gives_the_same_bits(trained, tmp_path):
    again = tmp_path / "again"
    answer = trained.call(f"--config=configs/rerun.py:{trained.workdir}", f"--workdir={again}")
    assert answer.status == 0, answer
    assert runs.read_metrics(again) == runs.read_metrics(trained.workdir)
    for name in ("config.json", "best.safetensors"):
        assert (again / name).read_bytes() == (trained.workdir / name).read_bytes()
    theirs, ours = (json.loads((f / "report.json").read_text()) for f in (trained.workdir, again))
    assert ours["dataset"] == theirs["dataset"]


def test_rerun_needs_a_run(trained, tmp_path):
    assert "needs a run" in cli.call(trained.folder, "--config=configs/rerun.py").refusal()
    missing = f"--config=configs/rerun.py:{tmp_path / 'none'}"
    assert "there is no folder" in cli.call(trained.folder, missing).refusal()
