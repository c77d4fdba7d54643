"""Checkpoints of the full train state with Orbax: saved in the background, whole or not at all.

A checkpoint holds every leaf of the TrainState by name, as NumPy arrays without a device axis, so
it restores on any number of devices, and the history of the epochs so far. The newest two and the
one of the best epoch are kept.
"""

import contextlib
import copy
import functools
import os

import jax
import numpy as np

from cifar_jax import files
from cifar_jax.errors import UserError
from cifar_jax.state import TrainState
from cifar_jax.workdir import CHECKPOINTS


class _KeepNewestAndBest:
    """Orbax preservation policy; Orbax's own BestN ranks by a rule that need not be ours."""

    def __init__(self, newest: int):
        self.newest = newest
        self.best_step = None

    def should_preserve(self, checkpoints, *, context):
        del context
        first_kept = len(checkpoints) - self.newest
        return [i >= first_kept or c.step == self.best_step for i, c in enumerate(checkpoints)]


class Checkpoints:
    """The checkpoints of a workdir. Use it in a `with`, or close it: the last save is then done."""

    def __init__(self, workdir: str, read_only: bool = False):
        self._folder = os.path.abspath(os.path.join(workdir, CHECKPOINTS))
        self._read_only = read_only
        self._policy = _KeepNewestAndBest(newest=2)
        if not read_only:
            with _refused(f"cannot make {self._folder}"):
                os.makedirs(self._folder, exist_ok=True)

    @functools.cached_property
    def _manager(self):
        """Orbax's; made when first needed, as a new run starts sooner without the import."""
        import orbax.checkpoint as ocp

        return ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._policy,
                # What a killed save left behind; not while another process may be saving.
                cleanup_tmp_directories=not self._read_only,
                read_only=self._read_only,
                create=False,
            ),
            item_names=("state", "progress"),
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, None where there is none."""
        if not os.path.isdir(self._folder) or not os.listdir(self._folder):
            return None
        return self._manager.latest_step()

    def save(self, state: TrainState, progress: dict, best_step: int | None) -> None:
        """Saves in the background; waits for the save before, if that is still under way.

        Args:
          state: leaves are NumPy arrays, no device axis, not written to afterwards.
          progress: JSON values: {"history": [entry, ...], "seconds": spent in the current epoch}.
          best_step: the step of the best epoch so far, whose checkpoint is to be kept.
        """
        import orbax.checkpoint as ocp

        step = int(state.step)
        if step == self.latest_step():
            return
        self._policy.best_step = best_step
        # Orbax turns it into JSON in the background, when an epoch may have been added already.
        progress = copy.deepcopy(progress)
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(_by_name(state)), progress=ocp.args.JsonSave(progress)
        )
        with _refused(f"cannot save a checkpoint in {self._folder}"):
            self._manager.save(step, args=args)

    def has(self, step: int) -> bool:
        """Whether there is a checkpoint of this step."""
        return step in self._manager.all_steps()

    def read(self, step: int | None = None) -> tuple[dict[str, np.ndarray], dict]:
        """A step's checkpoint or the newest, as ({"params/head/kernel": array, ...}, progress)."""
        import orbax.checkpoint as ocp

        step = self.latest_step() if step is None else step
        args = ocp.args.Composite(state=ocp.args.StandardRestore(), progress=ocp.args.JsonRestore())
        path = os.path.join(self._folder, str(step))
        with _refused(f"cannot read {path} (delete that folder to go on from the one before)"):
            restored = self._manager.restore(step, args=args)
        return restored["state"], restored["progress"]

    def restore(self, template: TrainState, step: int | None = None) -> tuple[TrainState, dict]:
        """The checkpoint of a step or the newest, as (state with NumPy leaves, progress).

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
            path = os.path.join(self._folder, str(step))
            raise UserError(
                f"the checkpoint {path} is of another model or optimizer: {', '.join(wrong[:3])}"
            )
        leaves = [saved[name] for name in wanted]
        state = jax.tree.unflatten(jax.tree.structure(template), leaves)
        return state, progress

    def wait(self) -> None:
        """Waits until the last save is committed."""
        if "_manager" not in vars(self):
            return
        with _refused(f"cannot save a checkpoint in {self._folder}"):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the last save and lets go of the folder."""
        if "_manager" not in vars(self):
            return
        with _refused(f"cannot save a checkpoint in {self._folder}"):
            self._manager.close()


@contextlib.contextmanager
def _refused(what: str):
    """Says in a line what could not be done; Orbax and TensorStore have several errors for it."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        # TensorStore's words go from the array to the file to what the system said.
        raise UserError(f"{what}: {files.reason(error).rpartition(': ')[2]}") from error


def _by_name(state: TrainState) -> dict[str, np.ndarray]:
    """{"params/head/kernel": array, ...}, in the order of the state's leaves."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
