"""Training runs in Python: a data set, training a recipe in a folder, and the history of a run."""

import os
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from cifar_jax import config as config_lib
from cifar_jax import training
from cifar_jax.api import given
from cifar_jax.data import datasets
from cifar_jax.errors import UserError
from cifar_jax.inference import init_from
from cifar_jax.reporting import reports
from cifar_jax.runtime import compile_cache, determinism, parallel, settings
from cifar_jax.storage import workdir as files_of
from cifar_jax.system import files, start_time
from cifar_jax.training import profiling
from configs import default


def dataset(name: str = "cifar10", seed: int = 0, **fields) -> datasets.Dataset:
    """Loads a data set: `.train.images` is uint8 [N, height, width, 3], `.train.labels` int32 [N].

    For segmentation, the labels are masks, uint8 [N, height, width].

    Args:
      name: "cifar10", "cifar100", "digits", "folder", "segmentation_folder", "mosaic", or a TFDS set that is
        prepared on this machine.
      seed: draws the validation split and the images of `train_examples`.
      **fields: other fields of `config.dataset`, for example labels="coarse" or path="pets". NumPy's numbers
        and path objects may be given too.

    Raises:
      UserError: a field or the data are wrong.
    """
    config = default.get_config()
    _set(config, "seed", seed)
    for field, value in {"name": name, **fields}.items():
        if field not in config.dataset:
            hint = config_lib.nearest(field, list(config.dataset))
            raise UserError(f"there is no field dataset.{field}{hint}")
        _set(config, f"dataset.{field}", value)
    config_lib.expand_home(config, default.FIELDS)
    config_lib.validate(config, default.FIELDS, part=("dataset.", "seed"))
    return datasets.load(config.dataset, config.seed)


def _set(config: ConfigDict, field: str, value) -> None:
    """Sets a field, such as "dataset.path", also to a value of a wrong type, which `validate` reports."""
    if isinstance(value, np.generic):
        value = value.item()
    elif isinstance(value, os.PathLike) and default.FIELDS[field].is_path:
        value = os.fspath(value)
    try:
        config.update_from_flattened_dict({field: value})
    except TypeError:
        with config.ignore_type():
            config.update_from_flattened_dict({field: value})


def train(
    config: ConfigDict,
    workdir: str | os.PathLike,
    on_epoch: Callable[[dict], object] | None = None,
) -> list[dict]:
    """Trains a recipe in a folder, or resumes the run there. The weights have the same bits as main.py's.

    Ctrl-C raises KeyboardInterrupt without saving first; the same call resumes from the last checkpoint.

    Args:
      config: the recipe, from `cifar_jax.recipe`.
      workdir: the folder of the run.
      on_epoch: called after each evaluated epoch, when it is saved, with its entry of the history.

    Returns:
      The history of the run.

    Raises:
      UserError: something is wrong with the arguments, the recipe, the data or the folder.
    """
    given.check_config(config)
    workdir = given.path(workdir, "workdir")
    if on_epoch is not None and not callable(on_epoch):
        raise UserError(f"on_epoch is {config_lib.shown(on_epoch)}, but takes a function")
    start_time.restart()
    config = config.copy_and_resolve_references()
    config_lib.expand_home(config, default.FIELDS)
    if config.get("deterministic") is True:
        determinism.enable()
    with settings.fixed(), compile_cache.enabled():
        training.train(checked(config, workdir), workdir, on_epoch)
    return history(workdir)


def checked(config: ConfigDict, workdir: str) -> ConfigDict:
    """The config of a run that is to start or resume, after all checks that need no data.

    Args:
      config: the recipe.
      workdir: the folder of the run; "" for a new one.

    Raises:
      UserError: the recipe is not valid, or the folder holds a run of another one.
    """
    config_lib.validate(config, default.FIELDS)
    files.check_name(os.path.abspath(workdir), "the workdir")
    if workdir:
        files_of.check_recipe(workdir, config, default.get_config())
    if config.profile and parallel.is_main():
        profiling.make_folder(config.profile)
    if config.init_from and not (workdir and files_of.has_run(workdir)):
        init_from.check(config)
    return config


def history(workdir: str | os.PathLike) -> list[dict]:
    """The history of a run: a dict for each evaluated epoch, as in metrics.jsonl.

    The keys are epoch, step, train_loss, train_accuracy, test_loss, test_accuracy, learning_rate, seconds and
    images_per_second; val_loss and val_accuracy with a validation split; in segmentation test_mean_iou and
    val_mean_iou too.

    Raises:
      UserError: there is no run in the folder.
    """
    workdir = given.path(workdir, "workdir")
    if not files_of.has_run(workdir):
        raise UserError(f"there is no run in {workdir}")
    return reports.read_metrics(os.path.join(workdir, files_of.METRICS))
