"""The training loop: steps up to the next evaluation, the evaluation, a checkpoint, a line of metrics.

A run that is interrupted at any moment and started again ends with the same bits as one that never
stopped: the state alone decides what comes next, and the history is saved with it.
"""

import signal
import time
from collections.abc import Callable

import jax
import numpy as np
from ml_collections import ConfigDict

from cifar_jax import config as config_lib
from cifar_jax import steps
from cifar_jax.data import datasets
from cifar_jax.errors import UserError
from cifar_jax.inference import Result, SegmentationResult, evaluate
from cifar_jax.reporting import HistoryFile, Progress, TensorBoard, reports
from cifar_jax.runtime import parallel, programs
from cifar_jax.steps import TrainState, inference_variables
from cifar_jax.storage import Checkpoints, Lock, provenance
from cifar_jax.storage import workdir as files_of
from cifar_jax.system import interruption, start_time
from cifar_jax.training import report
from cifar_jax.training.pace import Pace
from cifar_jax.training.profiling import SKIPPED, Profile
from cifar_jax.training.run import Run
from cifar_jax.training.start import begin, prepare, repair_best_weights, restore_or_start

# At least this long between two drawings of history.png.
PLOT_SECONDS = 30.0


def train(
    config: ConfigDict, workdir: str, on_epoch: Callable[[dict], object] | None = None
) -> int:
    """Trains a recipe in a folder, from the newest checkpoint if there is one.

    Args:
      config: the recipe.
      workdir: the folder of the run.
      on_epoch: gets each new entry of the history, in the main process.

    Returns:
      0 when all epochs are done, 128 plus the signal's number after a signal.

    Raises:
      UserError: the data, the batch size or the workdir does not fit, or the loss is not finite.
    """
    interruption.advise(
        f"; everything saved so far is kept; to resume, run the same command with\n  --workdir={workdir}"
    )
    provenance.revision()  # of the code as it is now; the report is written at the end
    is_quiet = not parallel.is_main()
    with Lock(workdir) as lock, interruption.Interruption(is_quiet) as interrupted:
        interruption.before_leaving(lock.release)
        parallel.in_every_process(lock.acquire, "lock")
        run, fresh = parallel.in_every_process(lambda: prepare(config, workdir), "prepare")
        same = (config_lib.recipe(config), datasets.describe(run.dataset), run.fingerprint)
        parallel.check_same("recipe or data", repr(same))
        parallel.in_every_process(lambda: begin(run, lock, fresh), "begin")
        with (
            Profile(config.profile) as profile,
            Checkpoints(workdir, before_save=lock.check) as checkpoints,
        ):
            state, progress = restore_or_start(run, checkpoints, fresh)
            # Only now: a resumed run may have more epochs, but not if it cannot be resumed.
            parallel.in_every_process(
                lambda: files_of.write_config(workdir, config), "write_config"
            )
            loop = Loop(run, state, progress, checkpoints, interrupted, profile, on_epoch)
            return loop.run_epochs()


class Loop:
    """The epochs that are left, from a state on.

    Attributes:
      step: optimizer steps dispatched so far; `state` is that after them, perhaps still computed.
      last_evaluation, next_evaluation: the steps after which evaluation came last and comes next.
      start: when training since the last evaluation began, as if nothing else had taken time.
      last_step: the end of the last epoch.
      progress: what a checkpoint holds beside the state: `history`, the `recipe`, the `data` and its
        `fingerprint`, JAX's `settings`, and the `seconds` of earlier starts since the last evaluation.
    """

    def __init__(self, run, state, progress, checkpoints, interrupted, profile, on_epoch=None):
        self.run, self.config = run, run.config
        self.checkpoints, self.interrupted, self.profile = checkpoints, interrupted, profile
        self.on_epoch = on_epoch
        self.progress, self.history = progress, progress["history"]
        self.step = int(state.step)
        self.last_step = self.config.num_epochs * run.steps_per_epoch
        self.pace = Pace(self.config.steps_per_dispatch, self.config.batch_size)
        self.best = report.best_epoch(self.history)
        self.metrics = HistoryFile(run.path(files_of.METRICS))
        report.write_history(self.metrics, self.history)
        self.train_steps = steps.train_steps(run.task)
        self.eval_sums = steps.eval_sums(run.task)
        splits = {"val": run.dataset.validation, "test": run.dataset.test}
        self.splits = {
            name: parallel.place((split.images, split.labels))
            for name, split in splits.items()
            if split
        }
        # Name of a split -> the function that evaluates it, later a compiled program.
        self.evaluations = dict.fromkeys(self.splits, self.eval_sums)
        self.data = parallel.place((run.dataset.train.images, run.dataset.train.labels))
        self.seed = np.uint32(self.config.seed)
        repair_best_weights(run, checkpoints, self.history)
        self.state = parallel.replicate(state)
        self.last_save = self.last_plot = time.perf_counter()
        path = run.path(files_of.TENSORBOARD)
        self.tensorboard = TensorBoard(path, self.history) if parallel.is_main() else None

    def run_epochs(self) -> int:
        """Trains to the last epoch or to a signal; returns the exit status."""
        if self.step < self.last_step:
            self.compile_programs()
        results = {}
        while self.step < self.last_step:
            per_epoch = self.run.steps_per_epoch
            epochs = epochs_evaluated(self.config, self.step // per_epoch)
            self.last_evaluation, self.next_evaluation = (epoch * per_epoch for epoch in epochs)
            self.start = time.perf_counter() - self.progress["seconds"]
            self.pace.restart()
            with self.progress_bar() as bar:
                while self.step < self.next_evaluation:
                    self.take_steps(bar)
                    if self.step < self.next_evaluation:
                        self.progress["seconds"] = time.perf_counter() - self.start
                        self.save_within_epoch()
                        if self.is_asked_to_leave():
                            return self.leave()
            results = self.evaluate()
            state = self.save_epoch(results)
            self.report_epoch(state)
            if self.step < self.last_step and self.is_asked_to_leave():
                return self.leave()
        return self.finish(results)

    def compile_programs(self) -> None:
        """Compiles training and evaluation now, so that no time measured later includes it."""
        start = time.perf_counter()
        variables = inference_variables(self.state)
        training, evaluation = "training", "evaluation of {:,} images"
        wanted = {training: (self.train_steps, (self.state, self.data, self.seed, np.int32(0)))}
        for images, labels in self.splits.values():
            name = evaluation.format(len(labels))
            wanted[name] = (self.eval_sums, (variables, (images, labels)))
        compiled = programs.compile_together(wanted, self.run.autotune_level)
        self.train_steps = compiled[training]
        self.evaluations = {
            name: compiled[evaluation.format(len(labels))]
            for name, (_, labels) in self.splits.items()
        }
        # No step: this loads the program onto the devices, or compiles it, with several processes.
        self.state, metrics = self.train_steps(self.state, self.data, self.seed, np.int32(0))
        jax.block_until_ready(metrics)
        seconds = time.perf_counter() - start
        parallel.say(f"training and evaluation compiled in {reports.duration(seconds)}")

    def progress_bar(self) -> Progress:
        """The bar of the steps from the last evaluation to the next."""
        epoch = self.next_evaluation // self.run.steps_per_epoch
        count, done = self.next_evaluation - self.last_evaluation, self.step - self.last_evaluation
        return Progress(epoch, self.config.num_epochs, count, done)

    def take_steps(self, bar: Progress) -> None:
        """Dispatches steps up to the next evaluation or until `pause()`; one dispatch is always under way."""
        pending = None
        while self.step < self.next_evaluation:
            left = self.next_evaluation - self.step
            (count,) = parallel.agree(min(self.pace.next_count(), left))
            start = time.perf_counter()
            with jax.profiler.StepTraceAnnotation("train", step_num=self.step):
                self.state, metrics = self.train_steps(
                    self.state, self.data, self.seed, np.int32(count)
                )
            self.step += count
            if pending:
                self.watch(*pending, bar)
            pending = (metrics, self.step, count, start)
            if self.pause():
                break
        self.watch(*pending, bar)

    def watch(self, metrics, step: int, count: int, start: float, bar: Progress) -> None:
        """Waits for the dispatch that ended at `step`, checks its loss and shows it."""
        metrics = parallel.unreplicate(metrics)
        self.pace.ended(count, start)
        check_finite(self.run, metrics)
        if self.pace.dispatches == 1:
            # The second dispatch, if it is under way, takes as long as the first.
            self.first_steps_done(time.perf_counter() - start if self.step > step else 0.0)
            self.pace.forget()
        # The metrics are sums over the current epoch.
        in_epoch = (step - 1) % self.run.steps_per_epoch + 1
        examples = in_epoch * self.config.batch_size
        bar.update(
            step - self.last_evaluation,
            float(metrics.loss) / in_epoch,
            float(metrics.correct) / examples,
            self.pace.images_per_second(),
        )

    def first_steps_done(self, work: float) -> None:
        """Says how long the start took, and does what could wait until the devices had work.

        They have work for so many seconds; what takes longer is left out of the epoch's.
        """
        seconds = start_time.seconds_since_start()
        parallel.say(f"first steps done {reports.duration(seconds)} after the start")
        start = time.perf_counter()
        report.draw_first_batch(self.run)
        # Without this, other processes would wait in the next steps' collective, which fails after 30 s.
        parallel.barrier("first_batch")
        self.start += max(0.0, time.perf_counter() - start - work)

    def pause(self) -> bool:
        """Does the host's work between dispatches; True if it is time to save or to leave."""
        self.interrupted.begin()  # compiled: from here on there are steps to save
        if self.tensorboard:
            self.tensorboard.open()
        if self.profile.follow(self.pace.dispatches):
            self.pace.forget()
        due = time.perf_counter() - self.last_save > 60 * self.config.checkpoint_minutes
        return any(parallel.agree(int(due), self.interrupted.signal))

    def save_within_epoch(self) -> None:
        state = parallel.unreplicate(self.state)
        check_finite(self.run, state.metrics, state.params)
        self.save(state)

    def save(self, state: TrainState) -> None:
        """Begins a checkpoint of the state and the progress."""
        self.checkpoints.save(state, self.progress, self.best and self.best["step"])
        self.last_save = time.perf_counter()

    def evaluate(self, names=("val", "test")) -> dict[str, Result | SegmentationResult]:
        """The result on each of these splits that there is."""
        variables, classes = inference_variables(self.state), self.run.dataset.class_names
        return {
            name: evaluate.evaluate(self.evaluations[name], variables, self.splits[name], classes)
            for name in names
            if name in self.splits
        }

    def save_epoch(self, results: dict) -> TrainState:
        """Adds the epoch to the history and saves both; returns the state on the host."""
        state = parallel.unreplicate(self.state)
        check_finite(self.run, state.metrics, state.params, results)
        seconds, speed = time.perf_counter() - self.start, self.pace.images_per_second()
        self.history.append(report.epoch_entry(self.run, state, results, seconds, speed))
        self.best = report.better(self.best, self.history[-1])
        self.progress["seconds"] = 0.0
        self.save(state)
        return state

    def report_epoch(self, state: TrainState) -> None:
        """Writes and prints what people read of the epoch that was just saved."""
        if not parallel.is_main():
            return
        entry = self.history[-1]
        report.write_history(self.metrics, self.history)
        self.tensorboard.add(entry)
        if self.best["epoch"] == entry["epoch"]:
            report.export_best(self.run, state, self.best)
        if time.perf_counter() - self.last_plot > PLOT_SECONDS:
            report.draw_history(self.run, self.history)
            self.last_plot = time.perf_counter()
        parallel.say(reports.epoch_line(entry, self.config.num_epochs))
        if self.on_epoch:
            self.on_epoch(dict(entry))

    def is_asked_to_leave(self) -> bool:
        """Whether any process got a signal; every process then knows which."""
        (self.interrupted.signal,) = parallel.agree(self.interrupted.signal)
        return bool(self.interrupted.signal)

    def leave(self) -> int:
        """Ends an interrupted run; everything is on disk when this returns the exit status."""
        self.checkpoints.wait()
        name, step = signal.Signals(self.interrupted.signal).name, self.checkpoints.latest_step()
        parallel.say(f"{name}: saved at step {step}; to resume, run the same command with")
        parallel.say(f"  --workdir={self.run.workdir}")
        return 128 + self.interrupted.signal

    def finish(self, results: dict) -> int:
        """Writes the report of a run whose epochs are all done; returns the exit status."""
        self.checkpoints.wait()
        if self.tensorboard:
            self.tensorboard.close()
        if 0 < self.pace.dispatches <= SKIPPED and self.config.profile:
            parallel.say(
                f"profile: none, because training took no more than {SKIPPED} dispatches: set a smaller "
                "config.steps_per_dispatch"
            )
        if not results:
            parallel.say(f"all {self.config.num_epochs} epochs are done already")
            results = self.evaluate(("test",))
        variables = inference_variables(self.state)
        result = evaluate.with_test_time_augmentation(
            results["test"], self.run.task, variables, self.splits["test"]
        )
        if parallel.is_main():
            report.finish(self.run, self.history, result)
        return 128 + self.interrupted.signal if self.is_asked_to_leave() else 0


def epochs_evaluated(config: ConfigDict, done: int) -> tuple[int, int]:
    """(last, next): the epochs after which evaluation came last (0: none yet) and comes next.

    `done` is the number of epochs that are done.
    """
    every = config.eval_every_epochs or config.num_epochs
    first = done // every * every
    return first, min(first + every, config.num_epochs)


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
            f"training stopped: {wrong}; what was saved in {run.workdir} is kept; try a lower "
            "lr_schedule.learning_rate, a warm-up or optimizer.clip_norm in a new workdir"
        )
