"""The training loop: an epoch of steps (or several), an exact evaluation, a line of metrics, a checkpoint.

A run that is interrupted at any moment and started again ends with the same bits as one that never
stopped: the state alone decides what comes next, and what was reported is saved with it.
"""

import os
import signal
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from cifar_jax import config as config_lib
from cifar_jax import steps
from cifar_jax.data import datasets
from cifar_jax.errors import UserError
from cifar_jax.inference import evaluate, weights
from cifar_jax.reporting import reports
from cifar_jax.runtime import parallel
from cifar_jax.steps import TrainState, inference_variables
from cifar_jax.storage import Checkpoints, Lock, provenance
from cifar_jax.storage import workdir as files_of
from cifar_jax.system import interruption, start_time
from cifar_jax.training import report
from cifar_jax.training.profiling import Profile
from cifar_jax.training.report import best_epoch
from cifar_jax.training.run import Run, create_run, describe_data, first_state, state_shapes

# Between two drawings of history.png.
PLOT_SECONDS = 30.0


class Pace:
    """How long steps take: how many to dispatch at once, and images per second.

    The first dispatch counts only where there is no other: other things are begun beside it.
    `dispatches` is how many have ended.
    """

    def __init__(self, steps_per_dispatch: int, batch_size: int):
        self._fixed = steps_per_dispatch
        self._batch_size = batch_size
        self._last_count = 0
        self._step_seconds = 0.0
        self._last_end = 0.0
        self.dispatches = 0
        self.restart()

    def restart(self):
        """Images per second are those from now on."""
        self._steps = 0
        self._seconds = 0.0
        self._first = (0, 0.0)

    def next_count(self) -> int:
        """Steps that take about a second, found by growing fourfold from one."""
        if self._fixed:
            return self._fixed
        if not self._step_seconds:
            return 1
        return max(1, min(4 * self._last_count, int(1 / self._step_seconds)))

    def ended(self, count: int, start: float) -> None:
        """A dispatch of `count` steps, made at the time `start`, has just ended."""
        end = time.perf_counter()
        seconds = end - max(start, self._last_end)
        self.dispatches += 1
        if not self._last_end:
            self._first = (count, seconds)
        else:
            self._steps += count
            self._seconds += seconds
            self._step_seconds = max(seconds / count, 1e-9)
            self._last_count = count
        self._last_end = end

    def forget(self) -> None:
        """Leaves the dispatch that is under way out: the host is busy with something else."""
        self._last_end = 0.0

    def images_per_second(self) -> float:
        steps, seconds = (self._steps, self._seconds) if self._steps else self._first
        return steps * self._batch_size / max(seconds, 1e-9)


def train(config: ConfigDict, workdir: str) -> int:
    """Trains the recipe in a folder, from its newest checkpoint if there is one.

    Returns:
      0 when all epochs are done, 128 plus the signal's number when a signal ended the run early.

    Raises:
      UserError: the data, the batch size or the workdir does not fit, or the loss is not finite.
    """
    interruption.advise(
        f"; nothing that was saved is lost; to go on, run the same with\n  --workdir={workdir}"
    )
    provenance.revision()  # of the code as it is now; the report is written at the end
    is_quiet = not parallel.is_main()
    with Lock(workdir) as lock, interruption.Interruption(is_quiet) as interrupted:
        interruption.before_leaving(lock.release)
        parallel.in_every_process(lock.acquire, "lock")
        run, fresh = parallel.in_every_process(lambda: prepare(config, workdir), "prepare")
        same = (config_lib.recipe(config), describe_data(run.dataset))
        parallel.check_same("recipe or data", repr(same))
        parallel.in_every_process(lambda: begin(run, lock, fresh), "begin")
        with (
            Profile(config.profile) as profile,
            Checkpoints(workdir, before_save=lock.check) as checkpoints,
        ):
            state, progress = restore_or_start(run, checkpoints, fresh)
            return fit(run, state, progress, checkpoints, interrupted, profile)


def prepare(config: ConfigDict, workdir: str) -> tuple[Run, TrainState | None]:
    """The run and, for a new one, its first state; the workdir is not touched."""
    parallel.check_batch_size(config.batch_size)
    dataset = datasets.load(config.dataset, config.seed)
    run = create_run(config, workdir, dataset)
    return run, first_state(run) if not files_of.has_run(workdir) else None


def begin(run: Run, lock: Lock, fresh: TrainState | None) -> None:
    """Makes the folder of a new run, takes its lock and records the recipe."""
    files_of.make_folder(run.workdir)
    lock.acquire()
    if fresh is not None and parallel.is_main() and files_of.has_run(run.workdir):
        raise UserError(
            f"a run was begun in {run.workdir} meanwhile: run the same to go on with it"
        )
    files_of.write_config(run.workdir, run.config)


def restore_or_start(run: Run, checkpoints: Checkpoints, fresh: TrainState | None):
    """Resume first, else `init_from`, else scratch: (state with host leaves, progress)."""
    data = describe_data(run.dataset)
    if checkpoints.latest_step() is None:
        # After one epoch its first checkpoint may still have been on the way; after two it was there.
        is_finished = os.path.exists(run.path(files_of.REPORT))
        if is_finished or files_of.epochs_reported(run.workdir) > 1:
            raise UserError(
                f"{run.workdir} has trained epochs but its checkpoints are gone: use a new --workdir"
                f" (with --config.init_from={run.workdir} to start from its best weights)"
            )
        if fresh is None:
            parallel.say("no checkpoint was saved yet: starting from the beginning")
            fresh = first_state(run)
        return fresh, {"history": [], "seconds": 0.0, "data": data}
    state, progress = checkpoints.restore(state_shapes(run))
    if progress["data"] != data:
        raise UserError(
            f"the data set is not the one that the run in {run.workdir} was started with "
            f"({progress['data']} then, {data} now)"
        )
    epoch, position = divmod(int(state.step), run.steps_per_epoch)
    parallel.say(
        f"resuming {run.workdir} after epoch {epoch}, step {position} of {run.steps_per_epoch}"
    )
    return state, progress


def fit(run: Run, state, progress: dict, checkpoints: Checkpoints, interrupted, profile) -> int:
    """Runs the epochs that are left; returns the exit status."""
    config, per_epoch = run.config, run.steps_per_epoch
    history = progress["history"]
    report.write_history(run, history)
    train_steps = steps.train_steps(run.task)
    eval_sums = steps.eval_sums(run.task)
    splits = {"val": run.dataset.validation, "test": run.dataset.test}
    splits = {
        name: parallel.place((split.images, split.labels))
        for name, split in splits.items()
        if split
    }
    data = parallel.place((run.dataset.train.images, run.dataset.train.labels))
    mend_best(run, checkpoints, history)
    step = int(state.step)
    state = parallel.replicate(state)
    if step < config.num_epochs * per_epoch:
        state, seconds = compile_steps(train_steps, state, data)
        parallel.say(f"steps compiled in {reports.duration(seconds)}")
    pace = Pace(config.steps_per_dispatch, config.batch_size)
    last_save = last_plot = time.perf_counter()
    results = {}
    tensorboard = (
        reports.TensorBoard(run.path(files_of.TENSORBOARD), history) if parallel.is_main() else None
    )

    while step < config.num_epochs * per_epoch:
        start = time.perf_counter() - progress["seconds"]
        first, epoch = epochs_evaluated(config, step // per_epoch)
        begin, end = first * per_epoch, epoch * per_epoch
        pace.restart()

        def pause():  # Called only while this iteration lasts.
            interrupted.begin()  # Compiled; there are steps to save from here on.
            if tensorboard:
                tensorboard.open()
            if profile.follow(pace.dispatches):
                pace.forget()
            due = time.perf_counter() - last_save > 60 * config.checkpoint_minutes  # noqa: B023
            return any(parallel.agree(int(due), interrupted.signal))

        with reports.Progress(epoch, config.num_epochs, end - begin, step - begin) as bar:
            while step < end:
                state, step = run_steps(
                    run, train_steps, state, data, (begin, step, end), pace, pause, bar
                )
                if step < end:
                    progress["seconds"] = time.perf_counter() - start
                    host_state = parallel.unreplicate(state)
                    check_finite(run, host_state.metrics, host_state.params)
                    best = best_epoch(history)
                    checkpoints.save(host_state, progress, best and best["step"])
                    last_save = time.perf_counter()
                    if stop_signal(interrupted):
                        return leave(run, checkpoints, interrupted)

        results = {
            name: evaluate.evaluate(
                eval_sums, inference_variables(state), split, run.dataset.class_names
            )
            for name, split in splits.items()
        }
        host_state = parallel.unreplicate(state)
        check_finite(run, host_state.metrics, host_state.params, results)
        seconds = time.perf_counter() - start
        history.append(epoch_entry(run, host_state, results, seconds, pace.images_per_second()))
        progress["seconds"] = 0.0
        checkpoints.save(host_state, progress, best_epoch(history)["step"])
        last_save = time.perf_counter()
        if parallel.is_main():
            report.write_history(run, history)
            tensorboard.add(history[-1])
            if best_epoch(history)["epoch"] == epoch:
                report.export_best(run, host_state, history)
            if time.perf_counter() - last_plot > PLOT_SECONDS:
                report.draw_history(run, history)
                last_plot = time.perf_counter()
            parallel.say(reports.epoch_line(history[-1], config.num_epochs))
        if epoch < config.num_epochs and stop_signal(interrupted):
            return leave(run, checkpoints, interrupted)

    checkpoints.wait()
    if tensorboard:
        tensorboard.close()
    if not results:
        parallel.say(f"all {config.num_epochs} epochs are done already")
        results = {
            "test": evaluate.evaluate(
                eval_sums, inference_variables(state), splits["test"], run.dataset.class_names
            )
        }
    result = evaluate.with_test_time_augmentation(
        results["test"], run.task, inference_variables(state), splits["test"]
    )
    if parallel.is_main():
        report.finish(run, history, result)
    return 0


def epochs_evaluated(config: ConfigDict, done: int) -> tuple[int, int]:
    """The epochs, from 0 for none, after which the last and the next evaluation are, if `done` are done."""
    every = config.eval_every_epochs or config.num_epochs
    first = done // every * every
    return first, min(first + every, config.num_epochs)


def compile_steps(train_steps, state, data):
    """(the same state, seconds taken): no time that is measured from now on is for compiling steps."""
    start = time.perf_counter()
    state, metrics = train_steps(state, data, np.int32(0))
    jax.block_until_ready(metrics)
    return state, time.perf_counter() - start


def run_steps(run: Run, train_steps, state, data, span, pace: Pace, pause, bar):
    """Dispatches steps up to the next evaluation, or until `pause()`; one dispatch is always under way.

    `span` is (steps taken at the last evaluation, taken now, to be taken at the next).

    Returns:
      (state, steps taken); they may still be running.
    """
    begin, step, end = span
    pending = None
    while step < end:
        (count,) = parallel.agree(min(pace.next_count(), end - step))
        start = time.perf_counter()
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            state, metrics = train_steps(state, data, np.int32(count))
        step += count
        if pending:
            watch(run, pending, pace, bar)
        pending = (metrics, step, step - begin, count, start)
        if pause():
            break
    watch(run, pending, pace, bar)
    return state, step


def watch(run: Run, dispatch, pace: Pace, bar) -> None:
    """Waits for a dispatch, checks its loss and shows it."""
    metrics, step, position, count, start = dispatch
    metrics = parallel.unreplicate(metrics)
    pace.ended(count, start)
    check_finite(run, metrics)
    if pace.dispatches == 1:
        first_steps_done(run)
        pace.forget()
    # The metrics are those of the epoch so far.
    in_epoch = (step - 1) % run.steps_per_epoch + 1
    examples = in_epoch * run.config.batch_size
    bar.update(
        position,
        float(metrics.loss) / in_epoch,
        int(metrics.correct) / examples,
        pace.images_per_second(),
    )


def first_steps_done(run: Run) -> None:
    """Says how long the start took, and does what was put off until the devices had work to do."""
    parallel.say(
        f"first steps done {reports.duration(start_time.seconds_since_start())} after the start"
    )
    report.draw_first_batch(run)
    # The others would wait in a collective of the next steps, where they give up after 30 seconds.
    parallel.barrier("first_batch")


def check_finite(run: Run, metrics, params=(), results=None) -> None:
    """Raises UserError if a loss or a weight is not finite."""
    wrong = None
    if int(metrics.failed_step) >= 0:
        wrong = f"the loss is not finite at step {int(metrics.failed_step)}"
    elif not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
        wrong = "a weight is not finite"
    elif any(not np.isfinite(result.loss) for result in (results or {}).values()):
        wrong = "the loss is not finite in evaluation"
    if wrong:
        raise UserError(
            f"training stopped: {wrong}; what was saved in {run.workdir} is as it was; try a lower "
            "lr_schedule.learning_rate, a warm-up or optimizer.clip_norm in a new workdir"
        )


def epoch_entry(run: Run, state: TrainState, results, seconds: float, speed: float) -> dict:
    """An epoch's line of metrics; the learning rate is that of the epoch's last step.

    `seconds` are those since the last evaluation, `speed` is in images per second.
    """
    step, per_epoch = int(state.step), run.steps_per_epoch
    examples = per_epoch * run.config.batch_size
    entry = {
        "epoch": step // per_epoch,
        "step": step,
        "learning_rate": float(run.schedule(step - 1)),
        "train_loss": float(state.metrics.loss) / per_epoch,
        "train_accuracy": int(state.metrics.correct) / examples,
    }
    for name, result in results.items():
        entry |= {f"{name}_loss": result.loss, f"{name}_accuracy": result.accuracy}
    return entry | {"seconds": seconds, "images_per_second": speed}


def mend_best(run: Run, checkpoints: Checkpoints, history: list[dict]) -> None:
    """Makes best.safetensors tell of the history's best epoch.

    A kill may have come between the checkpoint and the file, or between the file and the checkpoint
    of its epoch, which is then still to be trained.
    """
    if not history:
        return
    best = best_epoch(history)
    try:
        exported = weights.load(run.path(files_of.BEST_WEIGHTS)).epoch
    except UserError:
        exported = None
    # Every process takes part in reading a checkpoint.
    (stale,) = parallel.agree(int(exported != best["epoch"]))
    if not stale:
        return
    if checkpoints.has(best["step"]):
        state, _ = checkpoints.restore(state_shapes(run), best["step"])
        report.export_best(run, state, history)
    else:
        parallel.say(
            f"{files_of.BEST_WEIGHTS} is not that of the best epoch, {best['epoch']}, and cannot be "
            "made again: the checkpoint of that epoch is damaged or gone"
        )


def stop_signal(interrupted: interruption.Interruption) -> int:
    """The signal that any process got, 0 for none."""
    (interrupted.signal,) = parallel.agree(interrupted.signal)
    return interrupted.signal


def leave(run: Run, checkpoints: Checkpoints, interrupted: interruption.Interruption) -> int:
    """Ends an interrupted run: everything is on disk when this returns the exit status."""
    checkpoints.wait()
    name = signal.Signals(interrupted.signal).name
    parallel.say(f"{name}: saved at step {checkpoints.latest_step()}; to go on, run the same with")
    parallel.say(f"  --workdir={run.workdir}")
    return 128 + interrupted.signal
