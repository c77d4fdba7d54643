"""The weights that config.init_from names, to start a training run from."""

import jax
from ml_collections import ConfigDict

from cifar_jax import config as config_lib
from cifar_jax.errors import UserError
from cifar_jax.inference import other_libraries, weights
from cifar_jax.inference.find import weights_file
from cifar_jax.models import create_model
from cifar_jax.steps import init_variables


def replaced(variables: dict, config: ConfigDict) -> tuple[dict, list[str]]:
    """(`variables` with the weights of config.init_from, a line for each tensor that differs).

    Raises UserError if there are no such weights or they are of another model than the config's.
    """
    try:
        path = weights_file(config.init_from)
        if not other_libraries.is_other(path):
            return weights.init_from(variables, weights.load(path))
        frozen = bool(config.transfer.frozen_epochs or config.transfer.freeze_batch_norm)
        tensors = other_libraries.read(path)
        return other_libraries.init_from(variables, tensors, config.model.name, frozen)
    except UserError as error:
        raise UserError(f"config.init_from: {error}") from None


def check(config: ConfigDict) -> None:
    """Raises UserError unless config.init_from holds weights of the config's model. Needs no data."""
    # The number of classes does not matter: a head of another size is not loaded.
    model = create_model(config.model.name, 10, **config_lib.model_options(config))
    size = config.dataset.image_size
    replaced(jax.eval_shape(lambda: init_variables(model, 0, size)), config)
