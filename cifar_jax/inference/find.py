"""Weights for inference: made from a run's state, or found by --weights and --workdir."""

import os

import jax
import numpy as np
from flax import traverse_util

from cifar_jax import config as config_lib
from cifar_jax.errors import UserError
from cifar_jax.inference import pretrained, weights
from cifar_jax.inference.weights import Weights
from cifar_jax.models import create_model
from cifar_jax.steps import init_variables
from cifar_jax.storage import Checkpoints
from cifar_jax.storage import workdir as files_of
from cifar_jax.system import files


def inference_weights(config, data: dict, variables: dict, epoch: int, best=None) -> Weights:
    """The weights of a run, with everything that is needed to use them.

    Args:
      config: the config of the run.
      data: class_names, mean, std and enlarged_from, as in the progress of a checkpoint.
      variables: {"params", "batch_stats"}.
      epoch: the number of trained epochs.
      best: {"chosen_on", "accuracy"} if this is the best epoch.
    """
    variables = jax.tree.map(np.asarray, variables)
    dataset = {"name": config.dataset.name, "labels": config.dataset.labels}
    if "enlarged_from" in data:
        dataset["enlarged_from"] = int(data["enlarged_from"])
    return Weights(
        variables={name: tree for name, tree in variables.items() if tree},
        model={"name": config.model.name, **config_lib.model_options(config)},
        class_names=tuple(data["class_names"]),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        image_size=config.dataset.image_size,
        dataset=dataset,
        epoch=epoch,
        chosen_on=best["chosen_on"] if best else "",
        accuracy=best["accuracy"] if best else None,
    )


def find_weights(which: str, workdir: str, default) -> Weights:
    """The weights that --weights and --workdir name.

    Args:
      which: "best" or "latest" of the workdir, a `.safetensors` file, or the name of a bundled network;
        "": the best of the workdir or, without one, the bundled `pretrained.DEFAULT`.
      workdir: the folder of a run, or "".
      default: the default config, for the fields of the run's config.

    Raises:
      UserError: there are no such weights.
    """
    if not which and not workdir:
        return _load(pretrained.file_of(pretrained.DEFAULT))
    which = which or "best"
    if which not in ("best", "latest"):
        path = pretrained.resolve(which)
        if not os.path.exists(path):
            names = ", ".join(pretrained.names())
            hint = config_lib.nearest(which, pretrained.names())
            raise UserError(
                f"there is no file {which!r}{hint}: --weights takes best, latest, a file or the name of "
                f"a bundled network ({names})"
            )
        return _load(path)
    if not workdir:
        raise UserError(
            f"--weights={which} needs a --workdir; or give a file, --weights=FILE.safetensors"
        )
    config = files_of.read_config(workdir, default)
    if which == "best":
        path = os.path.join(workdir, files_of.BEST_WEIGHTS)
        if not os.path.exists(path):
            raise UserError(f"{workdir} has no {files_of.BEST_WEIGHTS} yet: train an epoch first")
        return _load(path)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        if checkpoints.latest_step() is None:
            raise UserError(f"{workdir} has no checkpoint yet")
        leaves, progress = checkpoints.read()
    state = traverse_util.unflatten_dict(leaves, sep="/")
    variables = state.get("ema") or {name: state.get(name, {}) for name in weights.COLLECTIONS}
    history = progress["history"]
    epoch = history[-1]["epoch"] if history else 0
    return inference_weights(config, progress["data"], variables, epoch)


def _load(path: str) -> Weights:
    """The weights of a file. Checks that its tensors fit the model that its metadata name."""
    found = weights.load(path)
    name = files.shown(path)
    try:
        model = create_model(num_classes=len(found.class_names), **found.model)
        wanted = jax.eval_shape(lambda: init_variables(model, 0, found.image_size))
    except (UserError, TypeError) as error:
        raise UserError(f"{name}: its model cannot be made: {error}") from None
    wrong = weights.differences(wanted, found.variables)
    if wrong:
        raise UserError(
            f"{name} is damaged, or is not what its metadata say, the model {found.model['name']} for "
            f"{len(found.class_names)} classes: {weights.listed(wrong)}"
        )
    return found
