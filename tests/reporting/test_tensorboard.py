"""TensorBoard shows every epoch once, whatever stopped the run."""

import sys
import time

import pytest

from cifar_jax.reporting import TensorBoard, reports
from tests.helpers import runs
from tests.helpers.events import shown
from tests.helpers.histories import entry


def test_tensorboard_has_every_number_at_its_step(tmp_path):
    with TensorBoard(tmp_path) as board:
        board.add(entry(1, validation=True))
        board.add(entry(2, validation=True, test_accuracy=0.75))
    scalars = shown(tmp_path)
    assert scalars["accuracy/test"] == [(390, pytest.approx(0.612)), (780, 0.75)]
    assert scalars["loss/validation"] == [(390, 1.5), (780, 1.5)]
    assert set(scalars) == {
        *(f"{kind}/{split}" for kind in ("loss", "accuracy") for split in reports.SPLITS.values()),
        *("epoch", "learning_rate", "seconds", "images_per_second"),
    }


def _write_without_pytorch(folder):
    with TensorBoard(folder) as board:
        board.add(entry(1))
    assert "torch" not in sys.modules


def test_pytorch_is_not_imported(tmp_path):
    process = runs.context().Process(target=_write_without_pytorch, args=(tmp_path,))
    process.start()
    process.join(runs.DEADLINE_SECONDS)
    assert process.exitcode == 0


def test_an_epoch_is_on_the_disk_before_the_next_begins(tmp_path):
    board = TensorBoard(tmp_path)
    board.add(entry(1))
    assert len(shown(tmp_path)["loss/test"]) == 1  # without closing or flushing it
    board.close()


@pytest.mark.parametrize("restored", [0, 1, 2, 3])
def test_a_resumed_run_shows_each_epoch_once(tmp_path, restored):
    # Killed after the events of three epochs; the checkpoint holds `restored` epochs.
    history = [entry(epoch) for epoch in (1, 2, 3)]
    board = TensorBoard(tmp_path)
    for line in history:
        board.add(line)
    resumed = TensorBoard(tmp_path, history[:restored])
    for epoch in range(restored + 1, 5):
        resumed.add(entry(epoch, test_loss=0.5))
    expected = [(390 * epoch, pytest.approx(1.1)) for epoch in range(1, restored + 1)]
    expected += [(390 * epoch, 0.5) for epoch in range(restored + 1, 5)]
    assert shown(tmp_path)["loss/test"] == expected
    board.close()
    resumed.close()


def test_an_epoch_that_only_the_checkpoint_has_is_added(tmp_path):
    # Killed between the save of epoch 2 and its event.
    with TensorBoard(tmp_path) as board:
        board.add(entry(1))
    TensorBoard(tmp_path, [entry(1), entry(2)]).close()
    assert [step for step, _ in shown(tmp_path)["loss/test"]] == [390, 780]


def test_an_epoch_that_two_kills_in_a_row_left_out_is_added(tmp_path):
    with TensorBoard(tmp_path) as board:
        board.add(entry(1))
    # The second start resumes after epoch 2, which has no event, and is killed after saving epoch 3.
    TensorBoard(tmp_path, [entry(1), entry(2)]).open()
    with TensorBoard(tmp_path, [entry(1), entry(2), entry(3)]) as board:
        board.add(entry(4))
    assert [step for step, _ in shown(tmp_path)["loss/test"]] == [390, 780, 1170, 1560]


def test_a_clock_that_is_set_back_shows_each_epoch_once(tmp_path, monkeypatch):
    with TensorBoard(tmp_path) as board:
        for epoch in (1, 2, 3):
            board.add(entry(epoch))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 1e8)
    with TensorBoard(tmp_path, [entry(1)]) as board:
        board.add(entry(2, test_loss=0.5))
    expected = [(390, pytest.approx(1.1)), (780, 0.5)]
    assert shown(tmp_path)["loss/test"] == expected


def test_events_that_were_deleted_are_written_again(tmp_path):
    TensorBoard(tmp_path, [entry(1), entry(2)]).close()
    assert [step for step, _ in shown(tmp_path)["loss/test"]] == [390, 780]
