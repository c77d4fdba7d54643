"""Checkpoints of the full train state with Orbax, saved atomically and in the background.

A checkpoint holds every leaf of the TrainState by name, as NumPy arrays without a device axis (so it restores
on any number of devices), and the progress. The history would make it ever larger, so it holds the mark of a
file that grows, `HISTORY`, of which metrics.jsonl is a copy. The newest two checkpoints and that of the best
epoch are kept. A checkpoint that is damaged, or whose history is lost, is not restored; the one before it is.
Training is deterministic, so resuming from either ends with the same bits.
"""

import contextlib
import functools
import glob
import json
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np
from absl import logging

from cifar_jax.errors import UserError
from cifar_jax.reporting import HistoryFile, history_file
from cifar_jax.runtime import parallel
from cifar_jax.steps import TrainState
from cifar_jax.storage import digests
from cifar_jax.storage.workdir import CHECKPOINTS, METRICS
from cifar_jax.system import console, files

# Suffix of a damaged checkpoint, which hides it from Orbax. It is deleted after the next save.
DAMAGED = ".damaged"

# The history of the run, in the folder of the checkpoints.
HISTORY = "history.jsonl"

# The files in which Orbax describes a checkpoint, and keeps the progress as JSON.
METADATA = "_CHECKPOINT_METADATA"
PROGRESS = os.path.join("progress", "metadata")


class _KeepNewestAndBest:
    """Orbax preservation policy. Orbax's own BestN may rank epochs differently than we do."""

    def __init__(self, newest: int):
        self.newest = newest
        self.best_step = None

    def should_preserve(self, checkpoints, *, context):
        del context
        first_kept = len(checkpoints) - self.newest
        return [i >= first_kept or c.step == self.best_step for i, c in enumerate(checkpoints)]


class Checkpoints:
    """The checkpoints of a workdir. Use it in a `with`, or close it, to finish the last save."""

    def __init__(self, workdir: str, read_only: bool = False, before_save=lambda: None):
        """`before_save` is called in the main process before each save; it may raise to prevent it."""
        self._folder = os.path.abspath(os.path.join(workdir, CHECKPOINTS))
        self._copies = [os.path.join(self._folder, HISTORY), os.path.join(workdir, METRICS)]
        self._history = HistoryFile(self._copies[0])
        self._read_only = read_only
        self._policy = _KeepNewestAndBest(newest=2)
        self._before_save = before_save
        self._thread = ThreadPoolExecutor(1)
        self._last_save: Future | None = None
        self._saving = -1
        if not read_only:
            with _refused(f"cannot make {self._folder}"):
                os.makedirs(self._folder, exist_ok=True)
            if parallel.is_main():
                files.remove_leftovers(self._folder)  # of a killed write of the history

    @functools.cached_property
    def _manager(self):
        """Orbax's manager, made when first needed: a new run starts sooner without the import."""
        import orbax.checkpoint as ocp

        self._found  # noqa: B018 - moves damaged checkpoints away before Orbax looks
        with _without_warnings():
            return ocp.CheckpointManager(
                self._folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=self._policy,
                    # Leftovers of killed saves; a reader must not delete what another process saves.
                    cleanup_tmp_directories=not self._read_only,
                    read_only=self._read_only,
                    create=False,
                    async_options=ocp.options.AsyncOptions(
                        post_finalization_callback=self._seal_before_commit,
                        # Where a folder cannot be made, threads that wait for it keep Python alive.
                        create_directories_asynchronously=False,
                    ),
                ),
                item_names=("state", "progress"),
            )

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        # Closing would wait for the lost process for minutes.
        if parallel.is_another_lost(error):
            return
        try:
            self.close()
        except UserError:
            # The first error says more.
            if error is None:
                raise

    def latest_step(self) -> int | None:
        """The step of the newest undamaged checkpoint; None if there are no checkpoints.

        Raises:
          UserError: there are checkpoints, but every one of them is damaged.
        """
        if "_manager" in vars(self) and not self._read_only:
            return self._manager.latest_step()
        return self._found

    @functools.cached_property
    def _found(self) -> int | None:
        """The newest undamaged step when this was opened, as the main process found it."""
        find = self._find if parallel.is_main() else lambda: None
        found = parallel.in_every_process(find, f"newest in {self._folder}")
        (step,) = parallel.agree(-1 if found is None else found)
        return None if step < 0 else step

    def _find(self) -> int | None:
        """Finds the newest undamaged step. Warns about newer, damaged ones and moves them away."""
        found, wrong = None, {}
        for step in self._steps():
            reason = self._damage(step)
            if not reason:
                found = step
                break
            wrong[step] = reason
        if found is None and wrong:
            # Older versions of this program saved no digests. Such checkpoints cannot be checked, so
            # they are only used if none with digests is left.
            unchecked = [step for step in wrong if not digests.exist(self._path(step))]
            if not unchecked:
                told = "; ".join(f"{step}: {reason}" for step, reason in wrong.items())
                raise UserError(
                    f"every checkpoint in {self._folder} is damaged ({told}): restore a copy, or "
                    "start again in another --workdir"
                )
            found = unchecked[0]
            console.warn(
                f"checkpoint {found} in {self._folder} has no digests and cannot be checked"
            )
        for step, reason in wrong.items():
            if step > found:
                console.warn(
                    f"checkpoint {step} in {self._folder} is damaged ({reason}): resuming from the "
                    f"one before, {found}"
                )
                self._move_away(step)
        return found

    def _steps(self) -> list[int]:
        """The steps of all checkpoints, newest first."""
        if not os.path.isdir(self._folder):
            return []
        with _refused(f"cannot read {self._folder}"):
            names = os.listdir(self._folder)
        return sorted((int(name) for name in names if name.isdigit()), reverse=True)

    def _path(self, step: int) -> str:
        return os.path.join(self._folder, str(step))

    def _damage(self, step: int) -> str:
        """What is wrong with a checkpoint, in words; "" if nothing is."""
        path = self._path(step)
        if not digests.exist(path):
            return f"{digests.NAME} is missing"
        if found := digests.damage(path):
            return found
        with _refused(f"cannot read {path}"), open(os.path.join(path, PROGRESS), "rb") as file:
            mark = json.load(file)["history"]
        if self._history_at(mark) is None:
            return f"{HISTORY} and {METRICS} do not hold its {mark['entries']} epochs"
        return ""

    def _move_away(self, step: int) -> None:
        if self._read_only:
            return
        path = self._path(step)
        with _refused(f"cannot rename {path}"):
            shutil.rmtree(path + DAMAGED, ignore_errors=True)
            os.rename(path, path + DAMAGED)

    def save(self, state: TrainState, progress: dict, best_step: int | None) -> None:
        """Saves in the background, after waiting for the previous save.

        Args:
          state: its leaves are NumPy arrays without a device axis; nothing may write to them later.
          progress: JSON values: {"history": [entry, ...], "seconds": since the last evaluation, ...}. The
            history is whole each time, and only grows from one call to the next.
          best_step: the step of the best epoch so far, whose checkpoint is kept.
        """
        import orbax.checkpoint as ocp

        step = int(state.step)
        if step == self.latest_step():
            return
        if parallel.is_main():
            self._before_save()
        self.wait()
        self._policy.best_step = best_step
        if parallel.is_main():
            self._history.write(progress["history"])
        # A copy: Orbax writes it in the background, when the caller may have changed it already.
        progress = progress | {"history": self._history.mark()}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(_by_name(state)), progress=ocp.args.JsonSave(progress)
        )
        with _refused(f"cannot save a checkpoint in {self._folder}"):
            self._saving = step
            self._manager.save(step, args=args)
        if parallel.is_main():
            self._last_save = self._thread.submit(self._seal, step)

    def _seal_before_commit(self) -> None:
        """Writes the digests of a save before its commit, so that none is committed without.

        Only `METADATA`, which Orbax writes at the commit itself, has no digest yet.
        """
        if parallel.is_main():
            for path in glob.glob(f"{glob.escape(self._path(self._saving))}.*tmp*"):
                digests.write(path, leave_out=(METADATA,))

    def _seal(self, step: int) -> None:
        """Waits until a save is committed, and adds the missing digests."""
        self._manager.wait_until_finished()
        digests.write(self._path(step))
        for name in os.listdir(self._folder):
            if name.endswith(DAMAGED):
                shutil.rmtree(os.path.join(self._folder, name), ignore_errors=True)

    def has(self, step: int) -> bool:
        """Whether there is a checkpoint of this step, not known to be damaged."""
        path = self._path(step)
        sound = parallel.is_main() and not (digests.exist(path) and digests.damage(path))
        (sound,) = parallel.agree(int(sound))
        return bool(sound) and step in self._manager.all_steps()

    def read(self, step: int | None = None) -> tuple[dict[str, np.ndarray], dict]:
        """The checkpoint of a step (None: the newest): ({"params/head/kernel": array, ...}, progress)."""
        import orbax.checkpoint as ocp

        step = self.latest_step() if step is None else step
        args = ocp.args.Composite(state=ocp.args.StandardRestore(), progress=ocp.args.JsonRestore())
        path = self._path(step)
        with _refused(f"cannot read {path} (delete that folder to resume from the one before)"):
            restored = self._manager.restore(step, args=args)
        progress = restored["progress"]
        history = self._history_at(progress["history"])
        if history is None:
            raise UserError(
                f"{self._copies[0]} and {METRICS} beside it do not hold the "
                f"{progress['history']['entries']} epochs that were trained: restore a copy of one of them"
            )
        return restored["state"], progress | {"history": history}

    def _history_at(self, mark: dict | list) -> list[dict] | None:
        """The history that a checkpoint has the mark of; None if it is lost.

        Checkpoints of older versions have the history itself.
        """
        if isinstance(mark, list):
            return mark
        found = (history_file.read(path, mark) for path in self._copies)
        return next((history for history in found if history is not None), None)

    def restore(self, template: TrainState, step: int | None = None) -> tuple[TrainState, dict]:
        """The checkpoint of a step (None: the newest), as (state with NumPy leaves, progress).

        Raises:
          UserError: the checkpoint does not have the template's leaves and shapes.
        """
        step = self.latest_step() if step is None else step
        saved, progress = self.read(step)
        wanted = _by_name(template)
        wrong = [
            name
            for name in sorted(saved.keys() | wanted.keys())
            if name not in saved
            or name not in wanted
            or np.shape(saved[name]) != np.shape(wanted[name])
        ]
        if wrong:
            raise UserError(
                f"the checkpoint {self._path(step)} belongs to another model or optimizer: "
                f"{', '.join(wrong[:3])}"
            )
        leaves = [saved[name] for name in wanted]
        state = jax.tree.unflatten(jax.tree.structure(template), leaves)
        return state, progress

    def wait(self) -> None:
        """Waits until the last save is committed and its digests are written."""
        if "_manager" not in vars(self):
            return
        with _refused(f"cannot save a checkpoint in {self._folder}"):
            if self._last_save:
                self._last_save.result()
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the last save and closes Orbax's manager."""
        if "_manager" not in vars(self):
            return
        self.wait()
        self._thread.shutdown()
        with _refused(f"cannot save a checkpoint in {self._folder}"):
            self._manager.close()


@contextlib.contextmanager
def _without_warnings():
    """Inside the `with`, Orbax does not warn that a manager which only reads saves nothing."""
    before = logging.get_verbosity()
    logging.set_verbosity(min(before, logging.ERROR))
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextlib.contextmanager
def _refused(what: str):
    """Turns the various errors of Orbax and TensorStore into a UserError that begins with `what`."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        if parallel.is_another_lost(error):
            raise
        # TensorStore's message names the array, the file, the system's words, and its own source.
        said = files.reason(error).rpartition(": ")[2].partition(" [")[0]
        raise UserError(f"{what}: {said}") from error


def _by_name(state: TrainState) -> dict[str, np.ndarray]:
    """{"params/head/kernel": array, ...}, in the order of the state's leaves."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
