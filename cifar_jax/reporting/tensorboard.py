"""TensorBoard events of a run, one entry per evaluated epoch."""

import contextlib
import os
import sys
import time
from collections.abc import Sequence

from cifar_jax.reporting import reports
from cifar_jax.system import files


class TensorBoard:
    """Writes each epoch's numbers as TensorBoard scalars at the epoch's last step.

    If the folder has events already, the run is resumed. A session start then tells TensorBoard's readers
    to hide all earlier events from the last step of `history` on, and that last entry is written again:
    a kill may have come between its checkpoint and its event. So no entry shows twice and none is missing.
    """

    def __init__(self, logdir: str | os.PathLike, history: Sequence[dict] = ()):
        self._logdir = logdir
        self._history = list(history)
        self._writer = None

    def open(self) -> None:
        """Opens the events file, if it is not open. The import may take a second.

        Call it before the run saves a checkpoint: then the next start can repair what a kill left out.

        Raises:
          UserError: it cannot be written. `add` and `close` raise it too.
        """
        if self._writer is not None:
            return
        import_tensorboardx()
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        with self._naming_the_folder():
            os.makedirs(self._logdir, exist_ok=True)
            earlier = sum("tfevents" in name for name in os.listdir(self._logdir))
            # Not SummaryWriter: its queue holds entries back for minutes, and a kill would lose them.
            # Files are read in the order of their names, which begin with the time; the number before
            # it keeps them in order even if the clock is set back.
            path = os.path.join(self._logdir, f"events.start{earlier:04}")
            self._writer = EventsWriter(path)
            if earlier:
                purge_step = self._history[-1]["step"] if self._history else 0
                self._write(Event(step=purge_step, file_version="brain.Event:2"))
                self._write(
                    Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)),
                )
            for entry in self._history[-1:] if earlier else self._history:
                self.add(entry)
            self._writer.flush()

    def add(self, entry: dict) -> None:
        """Writes one entry of the history. It is on disk when this returns."""
        self.open()
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        scalars = {
            f"{quantity}/{split}": entry[f"{key}_{quantity}"]
            for quantity in ("loss", "accuracy", "mean_iou")
            for key, split in reports.splits(entry)
            if f"{key}_{quantity}" in entry
        }
        for name in ("epoch", "learning_rate", "images_per_second", "seconds"):
            scalars[name] = entry[name]
        with self._naming_the_folder():
            for tag, value in scalars.items():
                self._write(Event(step=entry["step"], summary=scalar(tag, value)))
            self._writer.flush()

    def close(self) -> None:
        self.open()
        with self._naming_the_folder():
            self._writer.close()

    @contextlib.contextmanager
    def _naming_the_folder(self):
        with files.refused(f"cannot write {files.shown(self._logdir)}"):
            try:
                yield
            except OSError:
                # Close now, or Python would try to write the rest when it exits, and complain.
                with contextlib.suppress(OSError, AttributeError):
                    self._writer.close()
                raise

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _write(self, event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)


def import_tensorboardx() -> None:
    """Imports tensorboardX without PyTorch.

    Where PyTorch is installed, tensorboardX imports it for the type in an annotation, which takes seconds.
    """
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # importing it raises ImportError, which tensorboardX expects
    try:
        import tensorboardX.event_file_writer  # noqa: F401
    finally:
        if hidden:
            del sys.modules["torch"]
