"""Reads runs from their folders, and groups runs that differ only in their seed.

Finished and unfinished runs are read from config.json, metrics.jsonl and report.json, never from a
checkpoint. Times are those of the epochs: training and evaluation, without compiling the steps.
"""

import collections
import dataclasses
import functools
import itertools
import math
import os
import re
import statistics
from collections.abc import Callable, Sequence

from ml_collections import ConfigDict

from cifar_jax import config as config_lib
from cifar_jax import models
from cifar_jax.comparing import find
from cifar_jax.data import masks
from cifar_jax.errors import UserError
from cifar_jax.inference import weights
from cifar_jax.models import size
from cifar_jax.reporting import reports
from cifar_jax.steps import schedules
from cifar_jax.storage import workdir as files_of
from cifar_jax.system import files
from cifar_jax.training import best_epoch
from configs import default

FOLDER = "compare"
# Numbers of classes, for runs without a report yet.
_CLASSES = {"cifar10": 10, "digits": 10, ("cifar100", "fine"): 100, ("cifar100", "coarse"): 20}


@dataclasses.dataclass(frozen=True)
class RunResult:
    """One run, as far as its folder tells.

    Attributes:
      name: its path below the common parent folder of all runs.
      history: an entry for each evaluated epoch, as in `reports`.
      report: the content of report.json; {} if it does not exist yet.
      parameters, multiply_adds: as in `models.size`; None if the number of classes is not known yet.
    """

    name: str
    config: ConfigDict
    history: list[dict]
    report: dict
    parameters: int | None
    multiply_adds: int | None

    @property
    def epochs(self) -> int:
        """The number of epochs up to the last evaluation."""
        return self.history[-1]["epoch"] if self.history else 0

    @property
    def finished(self) -> bool:
        return self.epochs >= self.config.num_epochs

    @functools.cached_property
    def other_rates(self) -> list[tuple[int, str]]:
        """As in `schedules`: not empty if its learning rate was that of fewer epochs at first."""
        return schedules.other_rates(self.config, self.history)

    @property
    def is_segmentation(self) -> bool:
        return models.segments(self.config.model)

    @property
    def final_score(self) -> float | None:
        """Test accuracy (in segmentation, mean IoU) after the last evaluated epoch."""
        return reports.test_score(self.history[-1]) if self.history else None

    @property
    def best_score(self) -> float | None:
        """Test accuracy (in segmentation, mean IoU) after the best epoch."""
        return reports.test_score(self.best) if self.best else None

    @property
    def best(self) -> dict | None:
        return best_epoch(self.history)

    @property
    def times(self) -> list[float]:
        """Seconds from the first step to the end of each epoch of the history."""
        seconds = [entry["seconds"] for entry in self.history]
        return [math.fsum(seconds[: i + 1]) for i in range(len(seconds))]

    @property
    def images_per_second(self) -> float | None:
        speeds = [entry["images_per_second"] for entry in self.history]
        return statistics.median(speeds) if speeds else None

    @property
    def score_per_class(self) -> dict[str, float | None]:
        """Accuracy (in segmentation, IoU) per class after the last epoch; {} if there is no report yet."""
        if not self.history or self.report.get("final", {}).get("epoch") != self.epochs:
            return {}
        name = "iou_per_class" if self.is_segmentation else "accuracy_per_class"
        found = self.report.get("test", {}).get(name)
        return found if isinstance(found, dict) else {}

    @property
    def test_images(self) -> str | None:
        """`reports.test_images`; None before the end of the run."""
        return reports.test_images(self.report)

    def epochs_to(self, target: float) -> int | None:
        """The first epoch with at least this score on the test images."""
        reached = (e["epoch"] for e in self.history if reports.test_score(e) >= target)
        return next(reached, None)

    def time_to(self, target: float) -> float | None:
        pairs = zip(self.history, self.times, strict=True)
        return next((time for e, time in pairs if reports.test_score(e) >= target), None)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The runs of one recipe, in the order of their seeds."""

    name: str
    runs: tuple[RunResult, ...]

    @property
    def counted(self) -> tuple[RunResult, ...]:
        """The runs that means are computed over: the finished ones, or else those with an epoch."""
        finished = tuple(run for run in self.runs if run.finished)
        return finished or tuple(run for run in self.runs if run.history)

    def values(self, of: Callable[[RunResult], float | None]) -> list[float]:
        """A quantity of every counted run that has it."""
        return [value for value in map(of, self.counted) if value is not None]

    def mean(self, of: Callable[[RunResult], float | None]) -> float | None:
        values = self.values(of)
        return statistics.fmean(values) if values else None

    def deviation(self, of: Callable[[RunResult], float | None]) -> float | None:
        """The standard deviation of single runs (with n - 1); None for fewer than two."""
        values = self.values(of)
        return statistics.stdev(values) if len(values) > 1 else None

    @property
    def score_per_class(self) -> dict[str, float | None]:
        """The mean over the counted runs that have a report."""
        runs = [run.score_per_class for run in self.counted if run.score_per_class]
        names = runs[0] if runs else ()
        values = {name: [x for run in runs if _is_number(x := run.get(name))] for name in names}
        return {name: statistics.fmean(found) if found else None for name, found in values.items()}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Everything that a comparison shows.

    Attributes:
      folder: the common parent of the runs.
      recipes: in the order of their score after the last epoch, highest first. The score is test accuracy;
        of segmentation runs, mean IoU. All runs are of the same kind.
      target: the score to which times are reported.
      target_given: whether the user chose the target.
      skipped: a line for each folder that could not be read.
    """

    folder: str
    recipes: tuple[Recipe, ...]
    target: float
    target_given: bool
    skipped: tuple[str, ...]

    @property
    def runs(self) -> tuple[RunResult, ...]:
        return tuple(run for recipe in self.recipes for run in recipe.runs)

    @property
    def is_segmentation(self) -> bool:
        return self.runs[0].is_segmentation

    @property
    def score_name(self) -> str:
        """What the recipes are ranked by, in words."""
        return "mean IoU" if self.is_segmentation else "accuracy"

    @property
    def datasets(self) -> list[str]:
        return sorted({dataset_name(run.config) for run in self.runs})


def compare(paths: Sequence[str], target: float | None = None) -> Comparison:
    """Reads runs and groups them by recipe.

    Args:
      paths: workdirs, folders with workdirs below them, and patterns of both ("runs/*").
      target: the score to which times are reported, a fraction; None: the highest whole percent that at
        least half of the runs reach.

    Raises:
      UserError: no run can be read, or the target is not an accuracy.
    """
    check_target(target)
    workdirs, skipped = find.runs(paths)
    folder = _common_parent(workdirs)
    found = []
    for workdir in workdirs:
        try:
            files.check_name(workdir, "the workdir")
            found.append(read_run(workdir, os.path.relpath(workdir, folder)))
        except UserError as error:
            skipped.append(" ".join(str(error).split()))
    if not found:
        shown = ", ".join(map(files.shown, paths))
        why = f" ({'; '.join(skipped)})" if skipped else ""
        raise UserError(f"there is no run to compare in {shown}{why}")
    found, others = _of_one_kind(found)
    skipped += others
    recipes = group(found)
    given = target is not None
    return Comparison(
        folder, recipes, target if given else _common_target(found), given, tuple(skipped)
    )


def _of_one_kind(runs: list[RunResult]) -> tuple[list[RunResult], list[str]]:
    """(the runs of the more frequent kind, a line for each other one): their scores do not compare."""
    count = sum(run.is_segmentation for run in runs)
    kept = 2 * count > len(runs)
    names = ("classification", "segmentation")
    lines = [
        f"{run.name}: a run of {names[not kept]}, not of {names[kept]} as the others: compare it apart"
        for run in runs
        if run.is_segmentation != kept
    ]
    return [run for run in runs if run.is_segmentation == kept], lines


def check_target(target: float | None) -> None:
    """Raises UserError if the target is not a fraction between 0 and 1."""
    if target is not None and not 0 < target <= 1:
        hint = f": did you mean {target / 100:g}?" if 1 < target <= 100 else ""
        raise UserError(f"--target_accuracy={target:g} is not a fraction between 0 and 1{hint}")


def _common_parent(workdirs: Sequence[str]) -> str:
    """The innermost common folder, relative to the current folder if it is inside of it."""
    parents = [os.path.dirname(os.path.abspath(path)) for path in workdirs]
    parent = os.path.commonpath(parents) if parents else os.curdir
    relative = os.path.relpath(parent)
    return parent if relative.startswith(os.pardir) else relative


def read_run(workdir: str, name: str) -> RunResult:
    """Reads a run from the files in its folder. UserError if one of them is damaged."""
    config = files_of.read_config(workdir, default.get_config())
    try:
        config_lib.validate(config, default.FIELDS)
    except UserError as error:
        raise UserError(f"{os.path.join(workdir, files_of.CONFIG)}: {error}") from None
    history = reports.read_metrics(os.path.join(workdir, files_of.METRICS))
    report = reports.read_report(os.path.join(workdir, files_of.REPORT))
    parameters = multiply_adds = None
    classes = _number_of_classes(workdir, config, report)
    if classes:
        try:
            options = config_lib.model_options(config)
            model = models.create_model(config.model.name, classes, **options)
            parameters = size.parameters(model, config.dataset.image_size)
            multiply_adds = size.multiply_adds(model, config.dataset.image_size)
        except UserError as error:
            raise UserError(f"{workdir}: {error}") from None
    return RunResult(name, config, history, report, parameters, multiply_adds)


def _number_of_classes(workdir: str, config: ConfigDict, report: dict) -> int | None:
    names = report.get("dataset", {}).get("class_names")
    if isinstance(names, list):
        return len(names)
    name = config.dataset.name
    known = _CLASSES.get(name) or _CLASSES.get((name, config.dataset.labels))
    if known:
        return known
    try:
        return len(weights.load(os.path.join(workdir, files_of.BEST_WEIGHTS)).class_names)
    except UserError:  # before the end of the first epoch
        return None


def group(runs: Sequence[RunResult]) -> tuple[Recipe, ...]:
    """Groups the runs by recipe, without the seed, and data. Highest mean score first; none yet, last.

    A group has one run of each seed: a repeated run tells nothing about the deviation between seeds.
    """
    keys = [(repr(recipe_fields(run)), run.config.dataset.path) for run in runs]
    # Before its end, a run does not tell which images it has, only where from.
    images_of = {
        key: run.test_images for key, run in zip(keys, runs, strict=True) if run.test_images
    }
    by_recipe: dict[tuple, list[RunResult]] = {}
    repeats = collections.Counter()
    for (recipe, path), run in zip(keys, runs, strict=True):
        # Without a path, the data set's name is enough; the order of its images may depend on their source.
        images = path and (run.test_images or images_of.get((recipe, path), path))
        key = (recipe, images, tuple(run.other_rates), run.config.seed)
        by_recipe.setdefault((*key[:-1], repeats[key]), []).append(run)
        repeats[key] += 1
    recipes, taken = [], set()
    for members in by_recipe.values():
        members = sorted(members, key=lambda run: (run.config.seed, run.name))
        name = _common_name([run.name for run in members]) or members[0].config.model.name
        if name in taken:
            name = members[0].name
        taken.add(name)
        recipes.append(Recipe(name, tuple(members)))

    def order(recipe):
        score = recipe.mean(lambda run: run.final_score)
        return (score is None, -(score or 0), recipe.name)

    return tuple(sorted(recipes, key=order))


def recipe_fields(run: RunResult) -> dict:
    """The flat fields of a run's recipe, without the seed."""
    return {name: value for name, value in config_lib.recipe(run.config).items() if name != "seed"}


def _common_name(names: Sequence[str]) -> str:
    """The common beginning of the names of a recipe's runs: "lenet" for lenet-seed0 and lenet-seed1."""
    if len(names) == 1:
        return names[0]
    parts = [re.split(r"([-_./ ])", name) for name in names]
    columns = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False))
    name = "".join(column[0] for column in columns).rstrip("-_./ ")
    return name.removesuffix("seed").rstrip("-_./ ")


def differences(recipes: Sequence[Recipe]) -> dict[str, list]:
    """What differs between recipes, with its value in each: fields, the folder of pictures, added epochs."""
    firsts = [recipe.runs[0] for recipe in recipes]
    fields = [
        {
            "dataset.path": run.config.dataset.path,
            "fewer epochs at first": bool(run.other_rates),
            **recipe_fields(run),
        }
        for run in firsts
    ]
    names = {name: None for recipe in fields for name in recipe}
    found = {name: [recipe.get(name) for recipe in fields] for name in names}
    return {name: values for name, values in found.items() if any(v != values[0] for v in values)}


def _is_number(value) -> bool:
    return isinstance(value, int | float)


def dataset_name(config: ConfigDict) -> str:
    """The data set in words: "cifar10", "cifar100 coarse", "mosaic of cifar10"."""
    name, coarse = config.dataset.name, config.dataset.labels == "coarse"
    of = f" of {config.dataset.tiles}" if name == masks.MOSAIC else ""
    return name + of + (" coarse" if coarse else "")


def _common_target(runs: Sequence[RunResult]) -> float:
    """The highest whole percent that at least half of the runs reach."""
    reached = sorted(max(map(reports.test_score, run.history)) for run in runs if run.history)
    middle = reached[len(reached) // 2] if reached else 0.0
    return math.floor(100 * middle + 1e-9) / 100
