"""What a run writes for people: metrics, plots, the best weights and the final report."""

import dataclasses
import functools
import json
import os
import statistics

import jax
import numpy as np

from cifar_jax import config as config_lib
from cifar_jax import steps
from cifar_jax.data import datasets
from cifar_jax.errors import UserError
from cifar_jax.inference import Result, SegmentationResult, inference_weights, weights
from cifar_jax.reporting import HistoryFile, plots, reports
from cifar_jax.runtime import parallel, settings
from cifar_jax.steps import TrainState, inference_variables
from cifar_jax.storage import provenance
from cifar_jax.storage import workdir as files_of
from cifar_jax.training.run import Run, state_shapes

# What stays in the report of a run that is started again when all is done.
_OF_THE_TRAINING = ("eval", "device", "settings", "versions", "revision")


def best_epoch(history: list[dict]) -> dict | None:
    """The epoch with the highest score on the validation images (without them, on the test images).

    The score is accuracy or, in segmentation, mean IoU. Of equal ones, the first. None for an empty history.
    """
    return functools.reduce(better, history, None)


def better(best: dict | None, entry: dict) -> dict:
    """The better of the `best_epoch` so far and the next entry of the history."""
    split = "val" if "val_accuracy" in entry else "test"
    score, _ = reports.score_of(entry)
    if best and best[score] >= entry[f"{split}_{score}"]:
        return best
    best = {
        "epoch": entry["epoch"],
        "step": entry["step"],
        "chosen_on": "validation" if split == "val" else "test",
    }
    for name in dict.fromkeys(("accuracy", score)):
        best |= {name: entry[f"{split}_{name}"], f"test_{name}": entry[f"test_{name}"]}
    return best


def epoch_entry(run: Run, state: TrainState, results, seconds: float, speed: float) -> dict:
    """An epoch's line of metrics.

    Args:
      state: after the epoch's last step, whose learning rate is reported.
      results: the evaluation of each split, {"test": Result, ...}.
      seconds: since the last evaluation.
      speed: in images per second.
    """
    step, per_epoch = int(state.step), run.steps_per_epoch
    examples = per_epoch * run.config.batch_size
    entry = {
        "epoch": step // per_epoch,
        "step": step,
        "learning_rate": float(run.schedule(step - 1)),
        "train_loss": float(state.metrics.loss) / per_epoch,
        "train_accuracy": float(state.metrics.correct) / examples,
    }
    for name, result in results.items():
        entry |= {f"{name}_{score}": value for score, value in result.scores.items()}
    return entry | {"seconds": seconds, "images_per_second": speed}


def export_best(run: Run, state: TrainState, best: dict) -> None:
    """Writes best.safetensors from the state after the `best_epoch`."""
    if parallel.is_main():
        data, variables = datasets.describe(run.dataset), inference_variables(state)
        exported = inference_weights(run.config, data, variables, best["epoch"], best)
        weights.save(run.path(files_of.BEST_WEIGHTS), exported)


def draw_first_batch(run: Run) -> None:
    """Writes first_batch.png, the augmented images of the first training batch, unless it exists."""
    path = run.path(files_of.FIRST_BATCH)
    if not parallel.is_main() or os.path.exists(path):
        return
    split, config = run.dataset.train, run.config
    seed = np.uint32(config.seed)
    places = np.arange(min(64, config.batch_size), dtype=np.int32)

    # Runs once, and no bit of it matters: a lower optimisation level compiles twice as fast.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def first(data, seed):
        order = steps.epoch_order(seed, 0, len(data[0]))
        return steps.training_batch(
            dataclasses.replace(run.task, seed=seed), data, order, 0, places
        )

    images, labels, _ = jax.device_get(first((split.images, split.labels), seed))
    dataset = run.dataset
    names, scale = dataset.class_names, (dataset.mean, dataset.std)
    if dataset.colours:
        plots.plot_masked_batch(path, images, labels, *scale, names, dataset.colours)
    else:
        plots.plot_batch(path, images, [names[label] for label in labels], *scale)


def _earlier_report(path: str, final: dict) -> dict:
    """The report there, if it is of a history that ended with this entry; else {}."""
    try:
        before = reports.read_report(path)
    except UserError:  # damaged
        return {}
    return before if before.get("final") == final else {}


def draw_history(run: Run, history: list[dict]) -> None:
    """Writes history.png, the curves of loss, accuracy and learning rate."""
    title = f"{run.config.model.name} on {run.dataset.name}"
    plots.plot_history(run.path(files_of.HISTORY_PLOT), history, title)


def write_history(metrics: HistoryFile, history: list[dict]) -> None:
    """Writes metrics.jsonl as the history has it, without epochs that a resumed run will repeat."""
    if parallel.is_main():
        metrics.write(history)


def finish(run: Run, history: list[dict], result: Result | SegmentationResult) -> None:
    """Writes the report and the plots, and prints a summary.

    What an earlier report of this history says of the training and of evaluations stays.
    """
    best = best_epoch(history)
    draw_history(run, history)
    plots.plot_confusion(
        run.path(files_of.confusion_plot("latest")), result.confusion, run.dataset.class_names
    )
    report = {
        "format": config_lib.FORMAT,
        "model": run.config.model.name,
        "parameters": sum(int(np.prod(x.shape)) for x in jax.tree.leaves(state_shapes(run).params)),
        "dataset": {
            **datasets.describe(run.dataset),
            "fingerprint": run.fingerprint,
        },
        "final": history[-1],
        "best": best,
        "test": result.to_dict(),
        "seconds": sum(entry["seconds"] for entry in history),
        "images_per_second": statistics.median(entry["images_per_second"] for entry in history),
        "device": parallel.describe(),
        "settings": settings.of_the_user(),
        "config": run.config.to_dict(),
        "versions": provenance.versions(),
    }
    if provenance.revision():
        report["revision"] = provenance.revision()
    path = run.path(files_of.REPORT)
    before = _earlier_report(path, report["final"])
    if before:
        new = {name: value for name, value in report.items() if name not in _OF_THE_TRAINING}
        report = new | {name: before[name] for name in _OF_THE_TRAINING if name in before}
    # The same again may differ in the last bit on other devices.
    if before.get("config") != json.loads(json.dumps(report["config"])):
        reports.write_json(path, report)
    names = (
        files_of.METRICS,
        files_of.REPORT,
        files_of.HISTORY_PLOT,
        files_of.confusion_plot("latest"),
        files_of.BEST_WEIGHTS,
        files_of.CHECKPOINTS,
    )
    if result.augmented:
        parallel.say(f"last epoch: {result.augmented.to_line()}")
    parallel.say(reports.summary(history, best, [run.path(name) for name in names]))
