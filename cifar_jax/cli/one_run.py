"""The modes for one run or network: train, eval, predict and export."""

import contextlib
import json
import os
import sys

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from cifar_jax import api, models, training
from cifar_jax import config as config_lib
from cifar_jax.api import recipes
from cifar_jax.data import datasets, pictures
from cifar_jax.errors import UserError
from cifar_jax.inference import (
    Weights,
    export,
    predict,
    prediction_sheet,
    pretrained,
    segment,
    which_weights,
)
from cifar_jax.pages import evaluation as evaluation_page
from cifar_jax.pages import segmentation as segmentation_page
from cifar_jax.reporting import plots, reports
from cifar_jax.runtime import determinism, parallel
from cifar_jax.storage import provenance
from cifar_jax.storage import workdir as files_of
from cifar_jax.system import console, files, interruption
from configs import default

# The weights of a workdir itself, in the names of files and in report.json.
_OWN = ("best", "latest")


def run_train(args) -> int:
    """--mode=train: starts a new run, or resumes the one in --workdir."""
    _set_determinism(args)
    config = parallel.in_every_process(lambda: _config_to_train(args), "config")
    if args.workdir:
        return training.train(config, args.workdir)
    recipe = os.path.basename(flags.FLAGS["config"].config_filename.partition(":")[0])
    workdir = files_of.new_workdir(recipe.removesuffix(".py"))
    parallel.say(f"workdir: {workdir}")

    def remove_empty():
        # Leaves no empty folder behind, for example if the data set is missing.
        with contextlib.suppress(OSError):
            os.rmdir(workdir)

    interruption.before_leaving(remove_empty)
    try:
        return training.train(config, workdir)
    except UserError:
        remove_empty()
        raise


def _set_determinism(args) -> None:
    """Applies config.deterministic. Must come first: nearly anything may start the devices."""
    config = args.config
    if config is None and args.workdir:
        # A broken workdir is reported later, where its config is needed.
        with contextlib.suppress(UserError):
            config = files_of.read_config(args.workdir, default.get_config())
    if config is not None and config.get("deterministic") is True:
        determinism.enable()


def _config_to_train(args) -> ConfigDict:
    """The config of --config or --workdir, after all checks that need no data."""
    config = args.config
    if config is None:
        if not args.workdir:
            raise recipes.missing_config()
        config = files_of.read_config(args.workdir, default.get_config())
    if parallel.has_others() and not args.workdir:
        raise UserError("a run by several processes needs --workdir, the same for all")
    return api.checked(config, args.workdir)


def run_evaluate(args) -> int:
    """--mode=eval: reports accuracy on the test split, overall and per class."""
    _set_determinism(args)
    network = _load(args)
    found, config = network.weights, args.config
    if config is None and args.workdir:
        config = files_of.read_config(args.workdir, default.get_config())
    if config is None:
        if models.segments(found.model):
            raise UserError(
                "give the recipe of the data set with --config=FILE, or the --workdir of its run"
            )
        config = default.get_config()
        config.dataset.name = found.dataset["name"]
        config.dataset.labels = str(found.dataset.get("labels", "fine"))
    config_lib.validate(config, default.FIELDS)
    config.dataset.image_size = found.image_size
    dataset = datasets.load(config.dataset, config.seed)
    if args.workdir and args.config is None:
        _warn_of_other_images(dataset, args.workdir)
    which = _which(args)
    result = network.evaluate(dataset, config)
    if not np.isfinite(result.loss):
        raise UserError(f"{files.shown(which)}: the network's loss on {dataset.name} is not finite")
    if not parallel.is_main():
        return 0
    if args.json:
        print(json.dumps({"weights": which, "epoch": found.epoch, **result.to_dict()}))
    else:
        print(f"{found.model['name']}{_origin(found)}, on {dataset.name} test")
        print(result.to_text())
    written = _record_evaluation(result, dataset, found, which, args.workdir)
    if not args.json:
        print("written:", *written)
    return 0


def _warn_of_other_images(dataset: datasets.Dataset, workdir: str) -> None:
    """Prints a warning if the test images are not those that the report of the run is of."""
    before = reports.test_images(reports.read_report(os.path.join(workdir, files_of.REPORT)))
    if before and before != provenance.digest(dataset.test) and parallel.is_main():
        console.warn(
            "the test images, their labels or their order differ from those that the run was evaluated on; "
            "some may be images that it was trained on"
        )


def _origin(found: Weights) -> str:
    """The epoch of the weights, to follow a name; nothing for weights that were trained elsewhere."""
    chosen = f", chosen on {found.chosen_on}" if found.chosen_on else ""
    return f" after epoch {found.epoch}{chosen}" if found.epoch else ""


def _record_evaluation(result, dataset, found: Weights, which: str, workdir: str) -> list[str]:
    """Writes the page, the plot of the confusion matrix and, in a workdir, the result into report.json."""
    report_path = os.path.join(workdir, files_of.REPORT)
    report = reports.read_report(report_path) if workdir else {}
    folder = os.path.join(workdir, files_of.EVALUATION)
    title = f"{found.model['name']} on {dataset.name} test"
    subtitle = f"weights: {files.shown(which)}{_origin(found)}"
    images, labels = dataset.test.images, dataset.test.labels
    if dataset.colours:
        colours = dataset.colours
        page = segmentation_page.write(folder, result, images, labels, colours, title, subtitle)
    else:
        page = evaluation_page.write(folder, result, images, labels, title, subtitle)
    if which not in _OWN:
        which = _name_of_file(which, workdir)
    picture = os.path.join(workdir or folder, files_of.confusion_plot(which))
    plots.plot_confusion(picture, result.confusion, result.class_names)
    if not workdir:
        return [page, picture]
    report.setdefault("eval", {})[which] = result.to_dict()
    reports.write_json(report_path, report)
    return [page, picture, report_path]


def _name_of_file(path: str, workdir: str) -> str:
    """A name for the result of weights from a file: "best" only for those of the workdir itself."""
    folder, file = os.path.split(os.path.abspath(os.path.expanduser(path)))
    name = os.path.splitext(file)[0]
    is_own = os.path.realpath(folder) == os.path.realpath(workdir)
    return f"{os.path.basename(folder)}-{name}" if name in _OWN and workdir and not is_own else name


def run_predict(args) -> int:
    """--mode=predict: prints the five most probable classes of each picture.

    Returns 1 if a picture cannot be read.
    """
    if not args.image:
        raise UserError("--mode=predict needs a picture: --image=FILE or --image=FOLDER")
    which, found = _which(args), _find_trained_as_the_recipe(args)
    if models.segments(found.model):
        return _run_segment(args, which, found)
    if args.output:
        prediction_sheet.check_path(args.output)
    fit = args.fit or pictures.DEFAULT_FIT
    answers, errors = predict.predict_files(found, args.image, fit)
    if args.json:
        print(json.dumps({"weights": which, "predictions": answers, "errors": errors}))
    elif answers:
        if which == pretrained.DEFAULT and not args.weights:
            print(f"Using the bundled {which} (trained on {found.dataset['name']}):")
        print(predict.to_text(answers))
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    if args.output and answers:
        written = prediction_sheet.write(args.output, answers, predict.picture_size(found), fit)
        if not args.json:
            print("written:", *written)
    return 1 if errors else 0


def _run_segment(args, which: str, found: Weights) -> int:
    """--mode=predict with a segmentation network: writes a mask and an overlay of each picture."""
    if args.fit:
        raise UserError(
            "--fit is for classification: a segmentation network gets the whole picture"
        )
    folder = args.output or segment.FOLDER
    segment.check_folder(folder)
    answers, errors = segment.segment_files(found, args.image, folder)
    if args.json:
        print(json.dumps({"weights": which, "predictions": answers, "errors": errors}))
    elif answers:
        print(segment.to_text(answers))
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return 1 if errors else 0


def run_export(args) -> int:
    """--mode=export: writes a trained network to a file for other programs."""
    found = _find_trained_as_the_recipe(args)
    format_, path = export.choose(args.format, args.output, found.model["name"])
    export.write(path, format_, found)
    size = predict.picture_size(found)
    print(f"{found.model['name']}{_origin(found)}, {len(found.class_names)} classes")
    if format_ != "safetensors":
        print(f"{export.INPUT}: uint8 [batch, {size}, {size}, 3], in RGB")
        for name, described in export.outputs(found).items():
            print(f"{name}: {described}")
    print("written:", files.shown(path))
    return 0


def _which(args) -> str:
    """The name of the weights that `_load` finds, for people and for names of files."""
    return which_weights(args.weights, args.workdir, args.config)


def _load(args) -> api.Network:
    if args.config is not None:
        config_lib.validate(args.config, default.FIELDS)
    return api.load(args.weights, workdir=args.workdir, recipe=args.config)


def _find_trained_as_the_recipe(args) -> Weights:
    """The weights, for modes that load no data: they must be of the recipe's data set too."""
    found = _load(args).weights
    if args.config is not None:
        recipe = args.config.dataset
        theirs = (found.dataset["name"], found.dataset.get("labels", recipe.labels))
        if theirs != (recipe.name, recipe.labels):
            raise UserError(
                f"the recipe's data set is {recipe.name} ({recipe.labels} labels), but the weights "
                f"{files.shown(_which(args))} were trained on {theirs[0]} ({theirs[1]} labels): give weights "
                "of the recipe (--weights, --workdir or --config.init_from), or no --config"
            )
    return found
