"""The history on disk: one line per epoch, none twice, and what a mark tells of."""

import json
import resource

import pytest

from cifar_jax.errors import UserError
from cifar_jax.reporting import HistoryFile, history_file, reports


def entries(count, **changes):
    numbers = ("train_loss", "test_loss", "test_accuracy", "seconds", "images_per_second")
    return [
        {"epoch": e, "step": 9 * e, **dict.fromkeys(numbers, e / 3), **changes}
        for e in range(1, count + 1)
    ]


def test_a_file_that_grows_is_the_file_that_is_written_at_once(tmp_path):
    grown, whole = HistoryFile(tmp_path / "grown"), HistoryFile(tmp_path / "whole")
    for count in (1, 2, 2, 5):
        grown.write(entries(count))
    whole.write(entries(5))
    assert (tmp_path / "grown").read_bytes() == (tmp_path / "whole").read_bytes()
    assert grown.mark() == whole.mark()
    lines = (tmp_path / "grown").read_text().splitlines()
    assert [json.loads(line) for line in lines] == entries(5)
    assert list(json.loads(lines[0])) == list(entries(1)[0])  # in this order
    assert reports.read_metrics(tmp_path / "grown") == entries(5)


def test_a_resumed_run_leaves_out_the_epochs_that_it_repeats(tmp_path):
    HistoryFile(tmp_path / "h").write(entries(3))
    resumed = HistoryFile(tmp_path / "h")
    resumed.write(entries(2))
    resumed.write([*entries(2), *entries(3, test_loss=0.5)[2:]])
    assert [entry["test_loss"] for entry in reports.read_metrics(tmp_path / "h")] == [
        1 / 3,
        2 / 3,
        0.5,
    ]


def test_a_file_that_somebody_changed_is_written_again(tmp_path):
    file = HistoryFile(tmp_path / "h")
    file.write(entries(2))
    (tmp_path / "h").write_text("note\n")
    file.write(entries(3))
    assert reports.read_metrics(tmp_path / "h") == entries(3)
    (tmp_path / "h").unlink()
    file.write(entries(4))
    assert reports.read_metrics(tmp_path / "h") == entries(4)


def test_a_mark_tells_of_the_beginning_of_a_file(tmp_path):
    file = HistoryFile(tmp_path / "h")
    marks = {0: file.mark()}
    for count in (1, 2, 3):
        file.write(entries(count))
        marks[count] = file.mark()
    for count, mark in marks.items():
        assert history_file.read(tmp_path / "h", mark) == entries(count)
    data = (tmp_path / "h").read_bytes()
    places = {2: data.index(b"\n") + 5, 3: len(data) - 2}  # in the second and the last line
    for first_wrong, place in places.items():
        (tmp_path / "h").write_bytes(data[:place] + b"7" + data[place + 1 :])
        for count, mark in marks.items():
            found = history_file.read(tmp_path / "h", mark)
            assert found == (entries(count) if count < first_wrong else None)
    (tmp_path / "h").write_bytes(data[:-1])
    assert history_file.read(tmp_path / "h", marks[3]) is None
    assert history_file.read(tmp_path / "missing", marks[1]) is None


def test_the_cost_of_an_entry_does_not_depend_on_the_number_before(tmp_path, monkeypatch):
    file, written, sizes = HistoryFile(tmp_path / "h"), [], []
    monkeypatch.setattr(history_file, "_line", lambda entry: written.append(entry) or b"line\n")
    monkeypatch.setattr(
        history_file.files, "append_bytes", lambda path, data: sizes.append(len(data))
    )
    monkeypatch.setattr(history_file, "_size", lambda path: file._size)
    for count in range(1, 50):
        file.write(entries(count))
    assert len(written) == 49
    assert sizes == [5] * 48


def test_a_write_that_fails_leaves_nothing(tmp_path):
    file = HistoryFile(tmp_path / "h")
    file.write(entries(2))
    before = (tmp_path / "h").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, hard))
    try:
        with pytest.raises(UserError, match="cannot write"):
            file.write(entries(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "h").read_bytes() == before
    file.write(entries(3))
    assert reports.read_metrics(tmp_path / "h") == entries(3)


def test_a_line_that_is_just_being_written_is_not_read(tmp_path):
    HistoryFile(tmp_path / "h").write(entries(3))
    with open(tmp_path / "h", "a") as file:
        file.write('{"epoch": 4, "st')
    assert reports.read_metrics(tmp_path / "h") == entries(3)
