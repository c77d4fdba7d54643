"""Reports: files whole or not at all, numbers as people read them, events shown once, plots."""

import io
import json
import math
import os
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

from cifar_jax.errors import UserError
from cifar_jax.reporting import plots, reports
from cifar_jax.system import files

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def entry(epoch, validation=False, **changes):
    scores = {"train_loss": 1.234, "train_accuracy": 0.567}
    if validation:
        scores |= {"val_loss": 1.5, "val_accuracy": 0.5}
    scores |= {"test_loss": 1.1, "test_accuracy": 0.612}
    return (
        {"epoch": epoch, "step": 390 * epoch, "learning_rate": 0.1}
        | scores
        | {"seconds": 40.3, "images_per_second": 1234.5}
        | changes
    )


# Files


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write_and_fail(error):
        with files.atomic_path(path) as temporary, open(temporary, "w") as file:
            file.write("new, but not all of it")
            raise error

    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            write_and_fail(error)
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["file"]


def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    program = (
        "import os, signal, sys; from cifar_jax.system import files\n"
        "with files.atomic_path(sys.argv[1]) as temporary:\n"
        "    open(temporary, 'w').write('new'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    result = subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT)
    assert result.returncode == -9
    assert path.read_text() == "old"


def test_a_written_file_replaces_the_old_one_with_the_usual_permissions(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    path = tmp_path / ("n" * 250)  # as long as names may nearly be
    for text in ("old", "new"):
        reports.write_text(path, text)
        assert path.read_text() == text
    assert path.stat().st_mode == plain.stat().st_mode
    assert len(os.listdir(tmp_path)) == 2


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere/file")
    reports.write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "file").read_text() == "text"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*/no/file: No such file or directory"):
        reports.write_text(tmp_path / "no" / "file", "text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*/folder: Is a directory"):
        reports.write_text(tmp_path / "folder", "text")
    assert os.listdir(tmp_path) == ["folder"]


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


def test_metrics_are_one_line_an_epoch_and_never_one_twice(tmp_path):
    path = tmp_path / "metrics.jsonl"
    history = [entry(epoch) for epoch in (1, 2, 3)]
    reports.write_metrics(path, history)
    # Resumed after epoch 2: the third is gone, and comes again.
    for resumed in (history[:2], [*history[:2], entry(3, test_loss=0.1)]):
        reports.write_metrics(path, resumed)
        lines = path.read_text().splitlines()
        assert [json.loads(line) for line in lines] == resumed
    assert list(json.loads(lines[0])) == list(entry(1))  # in their order


# What is printed


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


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal_and_elsewhere(monkeypatch):
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        monkeypatch.setattr(sys, "stderr", stream)
        with reports.Progress(3, 20, steps_per_epoch=390, initial_step=100) as bar:
            bar.update(390, loss=1.234, accuracy=0.567, images_per_second=1234.5)
    assert pipe.getvalue() == ""
    text = terminal.getvalue()
    assert "epoch  3/20" in text
    assert "100/390" in text  # begun in the middle
    assert "390/390" in text
    assert "loss 1.234, 56.7 %, 1,234 img/s" in text


# TensorBoard


def read_events(folder):
    """All events of a folder in TensorBoard's order: files by name, records of length and data."""
    for name in sorted(os.listdir(folder)):
        data = (folder / name).read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]  # each is followed by a checksum of 4 bytes


def shown(folder):
    """{tag: [(step, value)]} as TensorBoard shows it: a session's start purges from its step on."""
    scalars = {}
    for event in read_events(folder):
        if event.session_log.status == SessionLog.START:
            for tag, points in scalars.items():
                scalars[tag] = [point for point in points if point[0] < event.step]
        for value in event.summary.value:
            scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
    return scalars


def test_tensorboard_has_every_number_at_its_step(tmp_path):
    with reports.TensorBoard(tmp_path) as board:
        board.add(entry(1, validation=True))
        board.add(entry(2, validation=True, test_accuracy=0.75))
    scalars = shown(tmp_path)
    assert scalars["accuracy/test"] == [(390, pytest.approx(0.612)), (780, 0.75)]
    assert scalars["loss/validation"] == [(390, 1.5), (780, 1.5)]
    assert set(scalars) == {
        *(f"{kind}/{split}" for kind in ("loss", "accuracy") for split in reports.SPLITS.values()),
        *("epoch", "learning_rate", "seconds", "images_per_second"),
    }


def test_an_epoch_is_on_the_disk_before_the_next_begins(tmp_path):
    board = reports.TensorBoard(tmp_path)
    board.add(entry(1))
    assert len(shown(tmp_path)["loss/test"]) == 1  # neither closed nor flushed by us
    board.close()


@pytest.mark.parametrize("restored", [0, 1, 2, 3])
def test_a_resumed_run_shows_each_epoch_once(tmp_path, restored):
    # Killed after three epochs' events, with `restored` epochs in the checkpoint it goes on from.
    history = [entry(epoch) for epoch in (1, 2, 3)]
    board = reports.TensorBoard(tmp_path)
    for line in history:
        board.add(line)
    resumed = reports.TensorBoard(tmp_path, history[:restored])
    for epoch in range(restored + 1, 5):
        resumed.add(entry(epoch, test_loss=0.5))
    expected = [(390 * epoch, pytest.approx(1.1)) for epoch in range(1, restored + 1)]
    expected += [(390 * epoch, 0.5) for epoch in range(restored + 1, 5)]
    assert shown(tmp_path)["loss/test"] == expected
    board.close()
    resumed.close()


def test_an_epoch_that_only_the_checkpoint_has_is_added(tmp_path):
    # Killed between the save of epoch 2 and its event.
    with reports.TensorBoard(tmp_path) as board:
        board.add(entry(1))
    reports.TensorBoard(tmp_path, [entry(1), entry(2)]).close()
    assert [step for step, _ in shown(tmp_path)["loss/test"]] == [390, 780]


def test_an_epoch_that_two_kills_in_a_row_left_out_is_added(tmp_path):
    with reports.TensorBoard(tmp_path) as board:
        board.add(entry(1))
    # The second start goes on after epoch 2, of which there is no event, and saves epoch 3; no more.
    reports.TensorBoard(tmp_path, [entry(1), entry(2)]).open()
    with reports.TensorBoard(tmp_path, [entry(1), entry(2), entry(3)]) as board:
        board.add(entry(4))
    assert [step for step, _ in shown(tmp_path)["loss/test"]] == [390, 780, 1170, 1560]


def test_a_clock_that_is_set_back_shows_each_epoch_once(tmp_path, monkeypatch):
    with reports.TensorBoard(tmp_path) as board:
        for epoch in (1, 2, 3):
            board.add(entry(epoch))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 1e8)
    with reports.TensorBoard(tmp_path, [entry(1)]) as board:
        board.add(entry(2, test_loss=0.5))
    expected = [(390, pytest.approx(1.1)), (780, 0.5)]
    assert shown(tmp_path)["loss/test"] == expected


def test_events_that_were_deleted_are_written_again(tmp_path):
    reports.TensorBoard(tmp_path, [entry(1), entry(2)]).close()
    assert [step for step, _ in shown(tmp_path)["loss/test"]] == [390, 780]


# Plots


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
    # Every "a" taken for a "b", every "b" for a "b": the right column is dark, the left one light.
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
    # Each pixel is a square of 4x4: found wherever the layout puts the pictures.
    tiles = sheet[10 : 10 + 128 : 4, 10 : 10 + 128 : 4]
    np.testing.assert_array_equal(tiles, pixels[0])
    last = pixels[63].repeat(4, 0).repeat(4, 1)
    windows = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], (128, 128))[-60:, -60:]
    assert (windows == last[..., 0]).all(axis=(-1, -2)).sum() == 1


def test_a_batch_smaller_than_the_grid_and_out_of_range(tmp_path):
    # Cutout and mixup stay within range; a wrong deviation would not: it is clipped, not wrapped.
    images = np.full((3, 8, 8, 3), 100.0, np.float32)
    plots.plot_batch(tmp_path / "b.png", images, ["a"] * 3, (0, 0, 0), (1, 1, 1))
    with Image.open(tmp_path / "b.png") as picture:
        assert np.asarray(picture.convert("L"))[:120].min() == 255
