"""A profile of a few training dispatches, for TensorBoard and Perfetto."""

import os
from pathlib import Path

import jax

from cifar_jax.errors import UserError
from cifar_jax.runtime import parallel
from cifar_jax.system import files

# By default the first dispatch is one step, and first_batch.png is drawn during the second.
SKIPPED, TRACED = 2, 4


def make_folder(folder: str) -> None:
    """Makes the folder of the profile; UserError if it cannot be made or written to."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError("no permission to write in it")
    except OSError as error:
        raise UserError(f"config.profile={folder}: {files.reason(error)}") from None


class Profile:
    """Traces some dispatches of the main process into a folder. Use it in a `with`."""

    def __init__(self, folder: str):
        """Makes `folder`; "" traces nothing. UserError if it cannot be made."""
        self._folder = Path(folder) if folder and parallel.is_main() else None
        self._is_running = False
        if self._folder:
            make_folder(folder)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def follow(self, dispatches: int) -> bool:
        """Starts or ends the trace, given how many dispatches have ended. True if it did either."""
        if not self._folder:
            return False
        if dispatches >= SKIPPED + TRACED:
            self.close()
            return True
        if dispatches >= SKIPPED and not self._is_running:
            options = jax.profiler.ProfileOptions()
            # Calls of Python functions would fill the trace and slow down the program.
            options.python_tracer_level = 0
            jax.profiler.start_trace(self._folder, profiler_options=options)
            self._is_running = True
            return True
        return False

    def close(self) -> None:
        """Ends the trace for good. If there is one, writes it and prints where it is."""
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
