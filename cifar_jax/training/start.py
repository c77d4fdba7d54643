"""The start of a training run: its data and first state, its folder, and its newest checkpoint."""

import numpy as np
from ml_collections import ConfigDict

from cifar_jax import config as config_lib
from cifar_jax.data import datasets
from cifar_jax.errors import UserError
from cifar_jax.inference import weights
from cifar_jax.reporting import reports
from cifar_jax.runtime import parallel, settings
from cifar_jax.steps import TrainState, schedules
from cifar_jax.storage import Checkpoints, Lock
from cifar_jax.storage import workdir as files_of
from cifar_jax.system import console
from cifar_jax.training import report
from cifar_jax.training.run import Run, create_run, first_state, state_shapes


def prepare(config: ConfigDict, workdir: str) -> tuple[Run, TrainState | None]:
    """The run and, if it is new, its first state. Does not touch the workdir."""
    parallel.check_batch_size(config.batch_size)
    dataset = datasets.load(config.dataset, config.seed)
    run = create_run(config, workdir, dataset)
    return run, first_state(run) if not files_of.has_run(workdir) else None


def begin(run: Run, lock: Lock, fresh: TrainState | None) -> None:
    """Makes the folder if it is new and locks it.

    Raises UserError if another process has begun a run there.
    """
    files_of.make_folder(run.workdir)
    lock.acquire()
    if fresh is not None and parallel.is_main() and files_of.has_run(run.workdir):
        raise UserError(
            f"another process has just begun a run in {run.workdir}: "
            "start this one again to resume it"
        )


def restore_or_start(run: Run, checkpoints: Checkpoints, fresh: TrainState | None):
    """(state with host leaves, progress): from the newest checkpoint, else from `init_from` or scratch.

    Raises:
      UserError: checkpoints are missing, or belong to another recipe or data set.
    """
    data, now = datasets.describe(run.dataset), settings.of_the_user()
    recipe = config_lib.recipe(run.config)
    if checkpoints.latest_step() is None:
        # A kill after one epoch may have come before its checkpoint; after two, one must be there.
        is_finished = reports.read_report(run.path(files_of.REPORT)).get("final")
        if is_finished or files_of.epochs_reported(run.workdir) > 1:
            raise UserError(
                f"{run.workdir} has trained epochs, but its checkpoints are gone: use a new "
                f"--workdir (with --config.init_from={run.workdir} to start from its best weights)"
            )
        if fresh is None:
            parallel.say("no checkpoint was saved yet: starting from the beginning")
            fresh = first_state(run)
        progress = {"data": data, "fingerprint": run.fingerprint, "settings": now}
        return fresh, {"history": [], "seconds": 0.0, "recipe": recipe, **progress}
    state, progress = checkpoints.restore(state_shapes(run))
    # Checkpoints of older versions have neither recipe nor fingerprint.
    old_recipe = progress.get("recipe", {})
    files_of.refuse_another(run.workdir, old_recipe, run.config)
    progress["recipe"] = recipe
    if _rounded(progress["data"]) != _rounded(data):
        raise UserError(
            f"the data set differs from the one that the run in {run.workdir} was started with "
            f"({progress['data']} then, {data} now)"
        )
    before = progress.get("fingerprint", run.fingerprint)
    changed = [name for name in before if before[name] != run.fingerprint[name]]
    if changed:
        raise UserError(
            f"the {' and '.join(changed)} images, their labels or their order differ from those that the run "
            f"in {run.workdir} was started with: use a new --workdir (with "
            f"--config.init_from={run.workdir} to start from its best weights)"
        )
    progress["fingerprint"] = run.fingerprint
    epoch, position = divmod(int(state.step), run.steps_per_epoch)
    parallel.say(
        f"resuming {run.workdir} after epoch {epoch}, step {position} of {run.steps_per_epoch}"
    )
    if _changes_rates(run.config, progress["history"], old_recipe.get("num_epochs")):
        epochs = run.config.num_epochs
        parallel.say(
            f"from here on the learning rate is that of {epochs} epochs; so far it was that of fewer, so "
            f"this will not be the same as a run of {epochs} from the start"
        )
    for name, before in progress.get("settings", now).items():
        if now.get(name) != before and parallel.is_main():
            console.warn(
                f"{name} was {before!r} and is now {now.get(name)!r}: results may differ from "
                "those of an uninterrupted run by rounding"
            )
    progress["settings"] = now
    return state, progress


def _changes_rates(config: ConfigDict, history: list[dict], epochs_before: int | None) -> bool:
    """Whether the run now has more epochs and so other learning rates than those that it began with.

    `epochs_before` is None for a checkpoint of an older version.
    """
    if config.num_epochs == epochs_before:
        return False
    if history:
        return bool(schedules.other_rates(config, history))
    return epochs_before is not None and schedules.depends_on_length(config)


def _rounded(data: dict) -> dict:
    """The facts about the data, with mean and deviation rounded as the steps use them.

    Older versions of this program computed them with another last bit on another CPU.
    """
    return data | {name: np.float32(data[name]).tolist() for name in ("mean", "std")}


def repair_best_weights(run: Run, checkpoints: Checkpoints, history: list[dict]) -> None:
    """Makes best.safetensors hold the weights of the history's best epoch.

    A kill may leave it one epoch behind the checkpoint, or one ahead of it.
    """
    if not history:
        return
    best = report.best_epoch(history)
    try:
        exported = weights.load(run.path(files_of.BEST_WEIGHTS)).epoch
    except UserError:
        exported = None
    # Every process must take part in reading a checkpoint.
    (stale,) = parallel.agree(int(exported != best["epoch"]))
    if not stale:
        return
    if checkpoints.has(best["step"]):
        state, _ = checkpoints.restore(state_shapes(run), best["step"])
        report.export_best(run, state, best)
    else:
        parallel.say(
            f"{files_of.BEST_WEIGHTS} does not hold the weights of the best epoch, {best['epoch']}, "
            "and cannot be repaired: the checkpoint of that epoch is damaged or gone"
        )
