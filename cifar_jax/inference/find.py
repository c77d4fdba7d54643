"""Weights for inference, found by --weights, --workdir and --config."""

import os

import jax
from flax import traverse_util
from ml_collections import ConfigDict

from cifar_jax import config as config_lib
from cifar_jax.data import datasets
from cifar_jax.errors import UserError
from cifar_jax.inference import make, other_libraries, pretrained, weights
from cifar_jax.inference.weights import Weights
from cifar_jax.models import create_model
from cifar_jax.steps import init_variables
from cifar_jax.storage import Checkpoints
from cifar_jax.storage import workdir as files_of
from cifar_jax.system import files


def find_weights(
    which: str, workdir: str, default: ConfigDict, config: ConfigDict | None = None
) -> Weights:
    """The weights that --weights, --workdir and --config name; they must be of the recipe's network.

    Args:
      which: "best" or "latest" of the workdir, a file, a run's folder (its best weights), or the name of
        a bundled network; "": as `which_weights` says.
      workdir: the folder of a run, or "".
      default: the default config, for the fields of the run's config.
      config: the recipe, or None. Weights of other libraries need it: its data set gives them class names,
        mean and deviation.

    Raises:
      UserError: there are no such weights, or they are of another network than the recipe's.
    """
    name = which_weights(which, workdir, config)
    if name in ("best", "latest"):
        found = _of_run(name, workdir, default)
    else:
        path = weights_file(name)
        if not os.path.exists(path):
            bundled = pretrained.names()
            takes = (
                "--weights takes best, latest, a file"
                if which
                else "config.init_from takes a run, a file"
            )
            raise UserError(
                f"there is no file {name!r}{config_lib.nearest(name, bundled)}: {takes} or the name of a "
                f"bundled network ({', '.join(bundled)})"
            )
        if other_libraries.is_other(path):
            if config is None:
                looks_like = other_libraries.describe(other_libraries.read(path))
                raise UserError(
                    f"{files.shown(path)} holds weights of another library, of {looks_like}: give a recipe "
                    "of their network and data set too, --config=FILE"
                )
            return make.of_other_library(path, config, datasets.load(config.dataset, config.seed))
        found = _load(path)
    if config is not None:
        _check_recipe(found, name, config)
    return found


def which_weights(which: str, workdir: str, config: ConfigDict | None) -> str:
    """--weights, else "best" for a workdir, else config.init_from, else the bundled network's name."""
    if which or workdir:
        return which or "best"
    return (config and config.init_from) or pretrained.DEFAULT


def weights_file(which: str) -> str:
    """The file that is meant by a path, a run's folder (its best weights) or a bundled network's name."""
    path = pretrained.resolve(which)
    if not os.path.isdir(path):
        return path
    files_of.check_format(path)
    best = os.path.join(path, files_of.BEST_WEIGHTS)
    if not os.path.exists(best):
        raise UserError(
            f"{files.shown(path)} is a folder without {files_of.BEST_WEIGHTS}: give a file, or the folder "
            "of a run that has trained an epoch"
        )
    return best


def _of_run(which: str, workdir: str, default: ConfigDict) -> Weights:
    """The best or latest weights of the run in a folder."""
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
    return make.inference_weights(config, progress["data"], variables, epoch)


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


def _check_recipe(found: Weights, which: str, config: ConfigDict) -> None:
    """Raises UserError if the weights are of another network than the recipe's, or for other inputs."""
    wanted = {"name": config.model.name, **config_lib.model_options(config)}
    values = [("network", _described(found.model), _described(wanted))]
    if _network(found.model) == _network(wanted):
        values = [("image size", found.image_size, config.dataset.image_size)]
        values += [
            (field, getattr(found, field), tuple(config.dataset[field]))
            for field in ("mean", "std")
            if config.dataset[field] is not None
        ]
    for what, theirs, ours in values:
        if theirs != ours:
            raise UserError(
                f"the recipe's {what} is {ours}, but that of the weights {files.shown(which)} is {theirs}: "
                "give weights of the recipe (--weights, --workdir or --config.init_from) or another recipe"
            )


def _network(model: dict):
    """The module of a model, without the options that change no prediction."""
    options = {key: model[key] for key in model if key not in ("dtype", "remat", "dropout")}
    return create_model(num_classes=1, **options)


def _described(model: dict) -> str:
    """A model in words: "resnet20_v1 (shortcut=zero_padding)"."""
    options = [f"{key}={value}" for key, value in model.items() if key not in ("name", "dtype")]
    return model["name"] + (f" ({', '.join(options)})" if options else "")
