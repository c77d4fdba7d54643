"""Checkpoints: which ones are kept, which are refused, and that a save holds the state of its moment."""

import errno
import json
import os
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from cifar_jax.errors import UserError
from cifar_jax.runtime import parallel
from cifar_jax.steps.state import EpochMetrics, TrainState
from cifar_jax.storage.checkpoint import Checkpoints
from tests.helpers import data_files, runs

# Four steps per epoch of a network that compiles fast.
FIELDS = {
    "batch_size": 16,
    "dataset.image_size": 8,
    "dataset.train_examples": 64,
    "augment.crop_padding": 0,
    "model.name": "mlp",
    "model.batch_norm": False,
    "model.hidden_sizes": "(16,)",
    "lr_schedule.name": "step",
    "lr_schedule.boundaries": "(1,)",
}


def some_state(step: int, width: int = 3) -> TrainState:
    kernel = np.full((2, width), step, np.float32)
    zero = EpochMetrics(np.float32(0), np.int32(0), np.int32(-1))
    return TrainState(np.int32(step), {"head": {"kernel": kernel}}, {}, (), {}, zero)


def test_newest_two_and_best_are_kept(tmp_path):
    # From the second epoch on the learning rate is zero, so the first epoch stays the best.
    fields = FIELDS | {"num_epochs": 5, "lr_schedule.factor": 0.0}
    ended = runs.run(runs.arguments(tmp_path / "run", fields), tmp_path / "log")
    assert ended.status == 0, ended.output
    accuracies = [entry["test_accuracy"] for entry in runs.read_metrics(tmp_path / "run")]
    assert len(accuracies) == 5
    assert len(set(accuracies)) == 1
    assert runs.checkpoint_steps(tmp_path / "run") == [4, 16, 20]
    assert json.loads((tmp_path / "run" / "report.json").read_text())["best"]["epoch"] == 1


def test_a_run_whose_checkpoints_are_gone_does_not_start_over(tmp_path):
    # The run is finished and has one line of metrics.
    args = runs.arguments(tmp_path / "run", FIELDS | {"num_epochs": 2, "eval_every_epochs": 0})
    assert runs.run(args, tmp_path / "log").status == 0
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = runs.digests(tmp_path / "run")
    ended = runs.run(args, tmp_path / "log")
    assert ended.status == 1
    assert "its checkpoints are gone" in ended.output
    after = runs.digests(tmp_path / "run")
    assert {name: after[name] for name in before} == before


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_last_checkpoint(tmp_path):
    fields = FIELDS | {"num_epochs": 1, "lr_schedule.factor": 1e30}
    assert runs.run(runs.arguments(tmp_path / "run", fields), tmp_path / "log").status == 0
    before = runs.digests(tmp_path / "run" / "checkpoints")
    args = runs.arguments(tmp_path / "run", fields | {"num_epochs": 3})
    ended = runs.run(args, tmp_path / "log")
    assert ended.status == 1
    assert "Traceback" not in ended.output
    # Steps are numbered from 0. Step 4 makes the weights useless, so the loss of step 5 is not finite.
    assert "not finite at step 5" in ended.output
    assert runs.digests(tmp_path / "run" / "checkpoints") == before
    assert [entry["epoch"] for entry in runs.read_metrics(tmp_path / "run")] == [1]


def test_a_run_does_not_go_on_with_other_data(tmp_path):
    fields = FIELDS | {"dataset.name": "cifar10", "dataset.train_examples": 0, "num_epochs": 1}
    endings = []
    for seed in (1, 2):
        train, test = (data_files.random_part(n, 10, seed=seed + n) for n in (40, 20))
        files = data_files.official_files("cifar10", "python", train, test)
        (tmp_path / str(seed)).mkdir()
        archive = data_files.write_folder(tmp_path / str(seed), "cifar10", "python", files)
        args = runs.arguments(tmp_path / "run", fields | {"dataset.archive": archive})
        endings.append(runs.run(args, tmp_path / "log"))
        if seed == 1:
            before = runs.digests(tmp_path / "run" / "checkpoints")
    assert endings[0].status == 0, endings[0].output
    assert endings[1].status == 1
    assert "the data set differs from the one that the run" in endings[1].output
    assert "Traceback" not in endings[1].output
    assert runs.digests(tmp_path / "run" / "checkpoints") == before


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(some_state(3), {"history": []}, None)
        checkpoints.wait()
        restored, _ = checkpoints.restore(some_state(0))
        np.testing.assert_array_equal(restored.params["head"]["kernel"], np.full((2, 3), 3.0))
        assert int(restored.step) == 3
        with pytest.raises(UserError, match="another model or optimizer: params/head/kernel"):
            checkpoints.restore(some_state(0, width=4))
        with pytest.raises(UserError, match="another model or optimizer: opt_state/momentum"):
            checkpoints.restore(some_state(0).replace(opt_state={"momentum": np.float32(0)}))


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def save_steps(workdir, *steps):
    """Saves a checkpoint at each step and returns the folder of the last one."""
    with Checkpoints(workdir) as checkpoints:
        for step in steps:
            checkpoints.save(some_state(step), {"history": []}, None)
    return workdir / "checkpoints" / str(steps[-1])


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A workdir with the checkpoints 3 and 5. Tests use a copy."""
    folder = tmp_path_factory.mktemp("two")
    save_steps(folder, 3, 5)
    return folder


@pytest.fixture
def workdir(two, tmp_path):
    shutil.copytree(two, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("hurt", [flip, cut, os.remove])
def test_damage_to_any_file_is_said_and_the_checkpoint_before_restored(workdir, hurt, capfd):
    newest = workdir / "checkpoints" / "5"
    whole = workdir / "whole"
    newest.rename(whole)
    names = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file()]
    assert any("state" in str(name) for name in names)
    for name in names:
        shutil.copytree(whole, newest)
        hurt(newest / name)
        with Checkpoints(workdir) as checkpoints:
            assert checkpoints.latest_step() == 3, name
            restored, _ = checkpoints.restore(some_state(0))
        assert int(restored.step) == 3
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("warning: checkpoint 5 ")
        assert line.endswith("resuming from the one before, 3")


def test_a_damaged_checkpoint_is_saved_again_and_then_deleted(workdir, capfd):
    flip(workdir / "checkpoints" / "5" / "state" / "_METADATA")
    with Checkpoints(workdir) as checkpoints:
        checkpoints.restore(some_state(0))
        assert not checkpoints.has(5)
        checkpoints.save(some_state(5), {"history": []}, None)
        checkpoints.wait()
        assert checkpoints.has(5)
    assert sorted(os.listdir(workdir / "checkpoints")) == ["3", "5"]
    capfd.readouterr()
    with Checkpoints(workdir) as checkpoints:
        restored, _ = checkpoints.restore(some_state(0))
    assert int(restored.step) == 5
    assert capfd.readouterr().err == ""


def test_where_every_checkpoint_is_damaged_nothing_is_touched(workdir):
    flip(workdir / "checkpoints" / "5" / "progress" / "metadata")
    os.remove(workdir / "checkpoints" / "3" / "state" / "_METADATA")
    before = runs.digests(workdir)
    told = (
        "every checkpoint in .* is damaged .5: progress/metadata has changed since it was saved; "
        "3: state/_M"
    )
    with Checkpoints(workdir) as checkpoints, pytest.raises(UserError, match=told) as error:
        checkpoints.latest_step()
    assert "\n" not in str(error.value)
    assert runs.digests(workdir) == before


def test_a_reader_moves_nothing(workdir):
    flip(workdir / "checkpoints" / "5" / "progress" / "metadata")
    before = runs.digests(workdir)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        leaves, _ = checkpoints.read()
    assert int(leaves["step"]) == 3
    assert runs.digests(workdir) == before


def test_every_committed_checkpoint_has_digests(tmp_path, monkeypatch):
    rename, seen = os.rename, []

    def spy(source, target):
        if "tmp" in Path(source).name and Path(target).parent.name == "checkpoints":
            seen.append(json.loads((Path(source) / "sha256.json").read_text()))
        return rename(source, target)

    monkeypatch.setattr(os, "rename", spy)
    newest = save_steps(tmp_path, 3)
    (before,) = seen
    assert any(name.startswith("state/") for name in before)
    # After the commit, the digests cover every file.
    after = json.loads((newest / "sha256.json").read_text())
    assert after == {k: v for k, v in runs.digests(newest).items() if k != "sha256.json"}
    assert before.items() <= after.items()


def test_checkpoints_without_any_digests_are_restored_and_said_to_be_unchecked(workdir, capfd):
    for step in (3, 5):
        os.remove(workdir / "checkpoints" / str(step) / "sha256.json")
    with Checkpoints(workdir) as checkpoints:
        restored, _ = checkpoints.restore(some_state(0))
    assert int(restored.step) == 5
    assert "checkpoint 5 in" in capfd.readouterr().err
    cut(workdir / "checkpoints" / "5" / "progress" / "metadata")
    with Checkpoints(workdir) as checkpoints, pytest.raises(UserError, match=r"cannot read .*/5 "):
        checkpoints.restore(some_state(0))


def test_a_save_that_the_disk_refuses_is_told_in_one_line(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(os, "rename", full)
    checkpoints.save(some_state(3), {"history": []}, None)
    # The save fails in the background; the next wait raises its error.
    with pytest.raises(UserError, match=r"^cannot save a checkpoint in .*: No space left") as error:
        checkpoints.wait()
    assert "\n" not in str(error.value)


def _save_where_a_folder_cannot_be_made(workdir, folder, said):
    mkdir = os.mkdir

    def full(path, *args, **kwargs):
        if os.path.basename(path) == folder:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        mkdir(path, *args, **kwargs)

    os.mkdir = full
    try:
        with Checkpoints(workdir) as checkpoints:
            checkpoints.save(some_state(3), {"history": []}, None)
    except UserError as error:
        said.put(str(error))


@pytest.mark.parametrize("folder", ["3.orbax-checkpoint-tmp", "state.orbax-checkpoint-tmp"])
def test_where_a_folder_cannot_be_made_the_process_ends(tmp_path, folder):
    said = runs.context().SimpleQueue()
    process = runs.context().Process(
        target=_save_where_a_folder_cannot_be_made, args=(tmp_path, folder, said)
    )
    process.start()
    # Python would wait for each thread that waits for the folder.
    process.join(60)
    assert process.exitcode == 0
    assert re.match(r"cannot save a checkpoint in .*: No space left", said.get())


def test_a_process_that_dies_in_a_save_is_not_taken_for_a_disk_that_refuses(tmp_path, monkeypatch):
    said = "UNKNOWN: Gloo AllGather failed: Connection closed by peer [127.0.0.1]:1420"

    def fail(*args, **kwargs):
        raise ValueError(said)

    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(checkpoints._manager, "save", fail)
    with pytest.raises(UserError, match="cannot save a checkpoint"):
        checkpoints.save(some_state(3), {"history": []}, None)
    monkeypatch.setattr(parallel, "has_others", lambda: True)
    monkeypatch.setattr(parallel, "agree", lambda *decisions: decisions)
    with pytest.raises(ValueError, match="Gloo") as error:
        checkpoints.save(some_state(3), {"history": []}, None)
    assert parallel.is_another_lost(error.value)


def test_a_checkpoint_holds_what_was_so_when_it_was_saved(tmp_path, monkeypatch):
    changed, dumps = threading.Event(), json.dumps

    def late(*args, **kwargs):
        if threading.current_thread() is not threading.main_thread():
            assert changed.wait(60)
        return dumps(*args, **kwargs)

    monkeypatch.setattr(json, "dumps", late)
    progress = {"history": [{"epoch": 1}], "seconds": 5.0}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(some_state(7), progress, None)
        # The run continues while Orbax writes.
        progress["history"].append({"epoch": 2})
        progress["seconds"] = 0.0
        changed.set()
        checkpoints.wait()
        _, restored = checkpoints.restore(some_state(0))
    assert restored == {"history": [{"epoch": 1}], "seconds": 5.0}


def test_each_checkpoint_has_its_history_as_long_as_one_of_two_copies_is_whole(tmp_path, capfd):
    history = [{"epoch": epoch, "test_accuracy": epoch / 7} for epoch in (1, 2, 3)]
    log, metrics = tmp_path / "checkpoints" / "history.jsonl", tmp_path / "metrics.jsonl"
    for count in (1, 2, 3):  # each in a process of its own, as after a kill
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(some_state(count), {"history": history[:count]}, 1)
    whole = log.read_bytes()
    metrics.write_bytes(whole)
    for hurt in (flip, cut, os.remove):
        for path in (log, metrics):
            hurt(path)
            with Checkpoints(tmp_path, read_only=True) as checkpoints:
                for step in (1, 2, 3):
                    assert checkpoints.read(step)[1] == {"history": history[:step]}
            path.write_bytes(whole)
    # Where both are torn in the last epoch, the checkpoint before is as good as ever.
    cut(log)
    cut(metrics)
    refused = pytest.raises(UserError, match="do not hold the 3 epochs that were trained")
    with Checkpoints(tmp_path, read_only=True) as checkpoints, refused:
        checkpoints.read(3)
    capfd.readouterr()
    with Checkpoints(tmp_path) as checkpoints:
        state, progress = checkpoints.restore(some_state(0))
    assert (int(state.step), progress) == (2, {"history": history[:2]})
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: checkpoint 3 ")
    assert "(history.jsonl and metrics.jsonl do not hold its 3 epochs): resuming" in line
    log.unlink()
    metrics.unlink()
    refused = pytest.raises(UserError, match=r"every checkpoint .* do not hold its 2 epochs")
    with Checkpoints(tmp_path) as checkpoints, refused as error:
        checkpoints.latest_step()
    assert "\n" not in str(error.value)


def test_a_checkpoint_does_not_grow_with_the_history(tmp_path):
    sizes = []
    for count in (1, 1000):
        history = [{"epoch": epoch} for epoch in range(count)]
        with Checkpoints(tmp_path / str(count)) as checkpoints:
            checkpoints.save(some_state(1), {"history": history}, None)
        files = (tmp_path / str(count) / "checkpoints" / "1" / "progress").rglob("*")
        sizes.append(sum(path.stat().st_size for path in files))
    assert sizes[1] - sizes[0] < 10  # the number of entries has three more digits


def test_what_a_killed_write_of_the_history_left_is_removed(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / ".history.jsonl.0123abcd.tmp").write_text("{")
    Checkpoints(tmp_path, read_only=True).close()
    assert len(os.listdir(folder)) == 1
    Checkpoints(tmp_path).close()
    assert os.listdir(folder) == []
