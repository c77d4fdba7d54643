"""A trace of a few dispatches of training, for TensorBoard and Perfetto."""

import os
from pathlib import Path

import jax

from cifar_jax.errors import UserError
from cifar_jax.runtime import parallel
from cifar_jax.system import files

# Of the first dispatch most is compilation; while the second runs, the first batch is drawn.
SKIPPED, TRACED = 2, 4


def make_folder(folder: str) -> None:
    """Makes the folder that is to be traced into; UserError where it cannot be or not be written."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError("no permission to write in it")
    except OSError as error:
        raise UserError(f"config.profile={folder}: {files.reason(error)}") from None


class Profile:
    """Traces some dispatches, in the main process, into a folder. To be closed, as by a `with`."""

    def __init__(self, folder: str):
        """`folder` is made if it is not there; "" traces nothing. UserError where it cannot be."""
        self._folder = Path(folder) if folder and parallel.is_main() else None
        self._is_running = False
        if self._folder:
            make_folder(folder)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def follow(self, dispatches: int) -> bool:
        """Starts or ends the trace by the number of dispatches that have ended; whether it did."""
        if not self._folder:
            return False
        if dispatches >= SKIPPED + TRACED:
            self.close()
            return True
        if dispatches >= SKIPPED and not self._is_running:
            options = jax.profiler.ProfileOptions()
            # Python's own calls would be most of the trace and slow what is traced.
            options.python_tracer_level = 0
            jax.profiler.start_trace(self._folder, profiler_options=options)
            self._is_running = True
            return True
        return False

    def close(self) -> None:
        """Writes what was traced, if anything was, and says where; nothing is traced from then on."""
        if not self._is_running:
            return
        folder, self._folder, self._is_running = self._folder, None, False
        try:
            jax.profiler.stop_trace()
        except OSError as error:
            raise UserError(f"config.profile={folder}: {files.reason(error)}") from None
        newest = max(folder.rglob("*.trace.json.gz"), key=os.path.getmtime, default=folder)
        parallel.say(f"profile: open {files.shown(newest)} at https://ui.perfetto.dev")
        parallel.say(
            f"  or: pip install xprof tensorboard && tensorboard --logdir={files.shown(folder)}"
        )
