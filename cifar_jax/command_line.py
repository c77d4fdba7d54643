"""The command line answered: flags parsed with one line for a mistake, and what each mode does."""

import ast
import glob
import json
import os
import sys
import traceback

from absl import flags

from cifar_jax import config as config_lib
from cifar_jax import datasets, evaluate, inference, plots, predict, reports, train
from cifar_jax import workdir as files_of
from cifar_jax.errors import UserError
from configs import default

RECIPES = os.path.dirname(os.path.abspath(default.__file__))


def parse(argv: list[str], usage: str) -> list[str]:
    """Parses the flags and loads the config; for a mistake, says it in a line and exits with 2."""
    if any(arg in ("-h", "--help", "-help", "--helpfull", "--helpshort") for arg in argv[1:]):
        print(usage)
        sys.exit(0)
    try:
        rest = flags.FLAGS(argv)
        _ = flags.FLAGS.config  # A missing file is noticed only when it is asked for.
    except Exception as error:
        _refuse(_explain(error, argv))
    if len(rest) > 1:
        _refuse(f"unexpected argument {rest[1]!r}: every flag starts with --")
    return rest


def _refuse(message: str):
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _explain(error: Exception, argv: list[str]) -> str:
    """What is wrong with the flags, in one line."""
    names = {"config", *(f"config.{name}" for name in config_lib.flatten(default.get_config()))}
    groups = {name.rsplit(".", 1)[0] for name in names}
    recipe = None
    for arg in argv[1:]:
        name, _, value = arg.lstrip("-").partition("=")
        if name == "config":
            recipe = value.partition(":")[0]
            if not os.path.isfile(recipe):
                recipes = [path for path, _ in list_recipes()]
                hint = config_lib.nearest(recipe, recipes)
                return f"there is no recipe {recipe!r}{hint} (--config lists them)"
        elif name.startswith("config.") and name not in names | groups:
            hint = config_lib.nearest(name, names)
            return f"there is no field --{name}{hint} (configs/default.py explains every field)"
        elif name.startswith("config.") and recipe is None:
            return f"--{name} comes before --config=RECIPE, whose field it changes"
    if isinstance(error, UserError | flags.Error):
        return " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if recipe and frame.filename.endswith(recipe)]
    where = f", line {lines[-1]}" if lines else ""
    return f"the recipe {recipe}{where}: {type(error).__name__}: {' '.join(str(error).split())}"


def list_recipes() -> list[tuple[str, str]]:
    """(path from here, first line of the docstring) of every recipe."""
    paths = glob.glob(os.path.join(RECIPES, "**", "*.py"), recursive=True)
    recipes = []
    for path in sorted(paths, key=lambda path: (path.count(os.sep), path)):
        if os.path.basename(path) not in ("__init__.py", "default.py"):
            with open(path, encoding="utf-8") as file:
                docstring = ast.get_docstring(ast.parse(file.read())) or ""
            recipes.append((os.path.relpath(path), docstring.partition("\n")[0]))
    return recipes


def _missing_config() -> UserError:
    recipes = list_recipes()
    width = max(len(path) for path, _ in recipes)
    lines = [f"  {path:{width}}  {line}" for path, line in recipes]
    return UserError("\n".join(["give a recipe with --config=FILE, one of these or your own:", *lines]))


def run_train(args) -> int:
    """--mode=train: a new run, or on with the one in --workdir; returns the exit status."""
    config = args.config
    if config is None:
        if not args.workdir:
            raise _missing_config()
        config = files_of.read_config(args.workdir, default.get_config())
    config_lib.validate(config)
    workdir = args.workdir
    if workdir:
        files_of.check_recipe(workdir, config, default.get_config())
    else:
        recipe = os.path.basename(flags.FLAGS["config"].config_filename.partition(":")[0])
        workdir = files_of.new_workdir(recipe.removesuffix(".py"))
        train.say(f"workdir: {workdir}")
    return train.train(config, workdir)


def run_evaluate(args) -> int:
    """--mode=eval: accuracy on the test split, overall and per class."""
    which = args.weights or "best"
    found = inference.find_weights(which, args.workdir, default.get_config())
    config = args.config
    if config is None and args.workdir:
        config = files_of.read_config(args.workdir, default.get_config())
    if config is None:
        config = default.get_config()
        config.dataset.name = found.dataset["name"]
        config.dataset.labels = found.dataset["labels"]
    config.dataset.image_size = found.image_size
    dataset = datasets.load(config.dataset, config.seed)
    if dataset.class_names != found.class_names:
        raise UserError(
            f"the weights know other classes ({', '.join(found.class_names[:3])}, ...) than the "
            f"data set {dataset.name} has ({', '.join(dataset.class_names[:3])}, ...)"
        )
    result = evaluate.evaluate_weights(found, dataset.test, config)
    written = _record_evaluation(result, which, args.workdir)
    if args.json:
        print(json.dumps({"weights": which, "epoch": found.epoch, **result.to_dict()}))
    else:
        chosen = f", chosen on {found.chosen_on}" if found.chosen_on else ""
        print(f"{found.model['name']} after epoch {found.epoch}{chosen}, on {dataset.name} test")
        print(result.to_text())
        print("written:", *written)
    return 0


def _record_evaluation(result, which: str, workdir: str) -> list[str]:
    """Writes the confusion matrix as a picture and, in a workdir, the result into report.json."""
    if which not in ("best", "latest"):
        which = os.path.splitext(os.path.basename(which))[0]
    picture = files_of.confusion_plot(which)
    picture = os.path.join(workdir, picture) if workdir else picture
    plots.plot_confusion(picture, result.confusion, result.class_names)
    if not workdir:
        return [picture]
    path = os.path.join(workdir, files_of.REPORT)
    report = {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            report = json.load(file)
    report.setdefault("eval", {})[which] = result.to_dict()
    reports.write_json(path, report)
    return [picture, path]


def run_predict(args) -> int:
    """--mode=predict: the five most probable classes of each picture; 1 if one could not be read."""
    if not args.image:
        raise UserError("--mode=predict needs a picture: --image=FILE or --image=FOLDER")
    if not args.weights and not args.workdir:
        raise UserError(
            "--mode=predict needs trained weights: --workdir=RUN or --weights=FILE.safetensors"
        )
    found = inference.find_weights(args.weights or "best", args.workdir, default.get_config())
    answers, errors = predict.predict_files(found, args.image)
    if args.json:
        print(json.dumps({"predictions": answers, "errors": errors}))
    elif answers:
        print(predict.to_text(answers))
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return 1 if errors else 0
