"""The folder of a run: the names of its files, its config, and which recipe may resume it."""

import json
import os
import time

from ml_collections import ConfigDict

from cifar_jax import config as config_lib
from cifar_jax.errors import UserError
from cifar_jax.runtime import parallel
from cifar_jax.system import files

CHECKPOINTS = "checkpoints"
CONFIG = "config.json"
METRICS = "metrics.jsonl"
REPORT = "report.json"
BEST_WEIGHTS = "best.safetensors"
HISTORY_PLOT = "history.png"
FIRST_BATCH = "first_batch.png"
TENSORBOARD = "tensorboard"
EVALUATION = "eval"


def confusion_plot(which: str) -> str:
    """The file name of the confusion matrix of the "best" or "latest" weights."""
    return f"confusion_{which}.png"


def new_workdir(recipe: str) -> str:
    """Makes a new folder for a run of a recipe, such as runs/resnet20_v2-20260131-235959; returns it."""
    name = os.path.join("runs", f"{recipe}-{time.strftime('%Y%m%d-%H%M%S')}")
    for suffix in ("", *(f"-{i}" for i in range(2, 1000))):
        try:
            os.makedirs(name + suffix)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"cannot make {name + suffix}: {files.reason(error)}") from None
        return name + suffix
    raise UserError(f"cannot make a new folder like {name}")


def has_run(workdir: str) -> bool:
    """Whether the folder holds a run."""
    return os.path.exists(os.path.join(workdir, CONFIG))


def read_config(workdir: str, default: ConfigDict) -> ConfigDict:
    """The resolved config of the run in a folder.

    Raises:
      UserError: there is no run, or its config cannot be read.
    """
    path = os.path.join(workdir, CONFIG)
    if not os.path.isdir(workdir):
        raise UserError(f"there is no folder {workdir}")
    check_format(workdir)
    if os.path.exists(path):
        files.check_regular_file(path)
    try:
        with open(path, encoding="utf-8") as file:
            return config_lib.from_json(file.read(), default)
    except FileNotFoundError:
        raise UserError(f"there is no run in {workdir} (no {CONFIG})") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {files.reason(error)}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def check_format(workdir: str) -> None:
    """Raises UserError if a file of the folder has an unknown format version.

    Missing and damaged files are skipped here; they are reported where they are needed.
    """
    for name in (CONFIG, REPORT):
        path = os.path.join(workdir, name)
        if not os.path.isfile(path):
            continue
        try:
            with open(path, encoding="utf-8") as file:
                values = json.load(file)
        except (OSError, ValueError, RecursionError):
            continue
        try:
            config_lib.check_format(values)
        except UserError as error:
            raise UserError(f"{files.shown(path)}: {error}") from None


def epochs_reported(workdir: str) -> int:
    """The number of lines of metrics.jsonl."""
    try:
        with open(os.path.join(workdir, METRICS), "rb") as file:
            return sum(1 for _ in file)
    except FileNotFoundError:
        return 0


def check_recipe(workdir: str, config: ConfigDict, default: ConfigDict) -> None:
    """Raises UserError if the path is not a folder or holds a run of another recipe. Changes nothing."""
    if os.path.exists(workdir) and not os.path.isdir(workdir):
        raise UserError(f"{workdir} is a file: --workdir takes a folder")
    if has_run(workdir):
        refuse_another(workdir, config_lib.recipe(read_config(workdir, default)), config)


def refuse_another(workdir: str, before: dict, config: ConfigDict) -> None:
    """Raises UserError if `before`, the recipe of the run in a folder, is not that of config.

    config may have more epochs, and fields that `before` lacks.
    """
    now = config_lib.recipe(config)
    before = now | before
    if now["num_epochs"] > before["num_epochs"]:
        before["num_epochs"] = now["num_epochs"]
    changed = config_lib.differences(before, now)
    if changed:
        raise UserError(
            f"{workdir} holds a run of another recipe ({'; '.join(changed)}): use a new --workdir, "
            f"with --config.init_from={workdir} to start from its weights"
        )


def make_folder(workdir: str) -> None:
    """Makes the folder if it does not exist."""
    try:
        os.makedirs(workdir, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {workdir}: {files.reason(error)}") from None


def write_config(workdir: str, config: ConfigDict) -> None:
    """Writes config.json, the recipe of a run, into its folder."""
    if parallel.is_main():
        path = os.path.join(workdir, CONFIG)
        files.write_bytes(path, config_lib.to_json(config).encode())
