"""Weights for inference, made from a run's state, or from a file of another library and a recipe."""

import jax
import numpy as np

from cifar_jax import config as config_lib
from cifar_jax.data import datasets
from cifar_jax.errors import UserError
from cifar_jax.inference import other_libraries, weights
from cifar_jax.inference.weights import Weights
from cifar_jax.models import create_model
from cifar_jax.steps import init_variables
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
    if "colours" in data:
        dataset["colours"] = [list(map(int, colour)) for colour in data["colours"]]
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


def of_other_library(path: str, config, dataset: datasets.Dataset) -> Weights:
    """The weights of a file of another library, in the network of a recipe and for its data set.

    Raises:
      UserError: the file cannot be read, or its tensors are not exactly those of the network.
    """
    name = config.model.name
    model = create_model(name, len(dataset.class_names), **config_lib.model_options(config))
    shapes = jax.eval_shape(lambda: init_variables(model, 0, config.dataset.image_size))
    tensors = other_libraries.read(path)
    try:
        variables, notes = other_libraries.init_from(shapes, tensors, name)
    except UserError as error:
        raise UserError(f"{files.shown(path)}: {error}") from None
    if notes:
        raise UserError(
            f"{files.shown(path)} does not fit the recipe ({name} for {len(dataset.class_names)} classes) "
            f"without training: {weights.listed([note.removesuffix(weights.KEPT) for note in notes])}"
        )
    return inference_weights(config, datasets.describe(dataset), variables, epoch=0)
