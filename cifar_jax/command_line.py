"""The command line answered: flags parsed with one line for a mistake, and what each mode does."""

import ast
import contextlib
import glob
import json
import os
import sys
import traceback

from absl import flags, logging
from ml_collections import ConfigDict

from cifar_jax import config as config_lib
from cifar_jax import (
    datasets,
    determinism,
    evaluate,
    files,
    inference,
    interruption,
    parallel,
    plots,
    predict,
    profiling,
    reports,
    run,
    train,
)
from cifar_jax import workdir as files_of
from cifar_jax.errors import UserError
from cifar_jax.run import say
from configs import default

HELP = ("-h", "--help", "-help", "-?", "--helpfull", "--helpshort")
USED_BY = {"image": ("predict",), "weights": ("eval", "predict"), "json": ("eval", "predict")}
# What Python says of a value that does not parse, and what the flag takes.
WHAT_A_FLAG_TAKES = {
    "Non-boolean argument": "true or false",
    "invalid literal for int": "a whole number",
    "could not convert string to float": "a number",
}

RECIPES = os.path.dirname(os.path.abspath(default.__file__))


def parse(argv: list[str], usage: str) -> list[str]:
    """Parses the flags and loads the config; for mistakes, says each in a line and exits with 2."""
    if any(arg in HELP for arg in argv[1:]):
        print(usage)
        sys.exit(0)
    try:
        return _parse(argv)
    except (Exception, SystemExit) as error:  # a recipe may call sys.exit
        first = _explain(error, argv)
    lines = _mistakes(argv) or [first]
    print("error: " + "\n".join(lines), file=sys.stderr)
    sys.exit(2)


def _parse(argv: list[str]) -> list[str]:
    """Parses in place, into flags.FLAGS; raises nearly anything for a mistake."""
    wrong = [
        _no_recipe(value.partition(":")[0]) for name, value in _arguments(argv) if name == "config"
    ]
    if any(wrong):
        raise UserError(next(filter(None, wrong)))  # a pipe would be waited for
    rest = flags.FLAGS(argv)
    _check_config(flags.FLAGS.config, _recipe(argv))
    _check_mode(flags.FLAGS)
    if len(rest) > 1:
        raise UserError(f"unexpected argument {files.shown(rest[1])!r}: every flag starts with --")
    return rest


def _mistakes(argv: list[str]) -> list[str]:
    """A line on each flag that is wrong by itself, then on each field of what the others make.

    The recipe is loaded again with each flag: that costs time only where something is wrong.
    """
    groups = _groups(argv[1:])
    is_recipe = [_name(group[0]) == "config" for group in groups]
    lines, wrong = [], set()
    for place in range(len(groups)):
        # A flag's mistake is one if the recipe alone, in its place before or after, has none.
        tried = [g for i, g in enumerate(groups) if is_recipe[i] or i == place]
        error = _try([argv[0], *(arg for g in tried for arg in g)])
        if error is not None:
            wrong.add(place)
            lines.append(_explain(error, [argv[0], *(arg for g in tried for arg in g)]))
            if is_recipe[place]:
                return lines[-1:]
    rest = [arg for i, group in enumerate(groups) if i not in wrong for arg in group]
    error = _try([argv[0], *rest])
    if error is not None:
        return [*lines, _explain(error, [argv[0], *rest])]
    if isinstance(flags.FLAGS.config, ConfigDict):
        try:
            config_lib.validate(flags.FLAGS.config, default.get_config())
        except UserError as several:
            lines += str(several).splitlines()
    return list(dict.fromkeys(lines))


def _groups(args: list[str]) -> list[tuple[str, ...]]:
    """The flags, each with the value that comes after it: ("--config.seed=1",), ("--image", "a.png")."""
    groups = []
    for arg in args:
        # A minus may begin a number, which is the value of the flag before.
        is_value = not arg.startswith("-") or arg[1:2].isdigit()
        if groups and is_value and groups[-1][0].startswith("-"):
            first = groups[-1][0]
            is_switch = _name(first) in flags.FLAGS and flags.FLAGS[_name(first)].boolean
            if "=" not in first and len(groups[-1]) == 1 and not is_switch:
                groups[-1] = (first, arg)
                continue
        groups.append((arg,))
    return groups


def _name(arg: str) -> str:
    return arg.lstrip("-").partition("=")[0]


def _try(argv: list[str]) -> BaseException | None:
    """Why these arguments do not parse, if they do not."""
    # config_flags defines a flag for each field that it finds in sys.argv.
    for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        delattr(flags.FLAGS, name)
    verbosity = logging.get_verbosity()  # a flag too
    flags.FLAGS.unparse_flags()
    logging.set_verbosity(verbosity)
    before, sys.argv = sys.argv, argv
    try:
        _parse(argv)
    except (Exception, SystemExit) as error:
        return error
    finally:
        sys.argv = before
    return None


def _arguments(argv: list[str]) -> list[tuple[str, str]]:
    """(name, value) of each flag, for what config_flags does not say."""
    found, args = [], iter(argv[1:])
    for arg in args:
        name, equals, value = arg.lstrip("-").partition("=")
        if name == "config" and not equals:
            value = next(args, "")
        found.append((name, value))
    return found


def _recipe(argv: list[str]) -> str | None:
    """The file of --config, None without."""
    values = [value for name, value in _arguments(argv) if name == "config"]
    return values[-1].partition(":")[0] if values else None


def _check_config(config, recipe: str | None) -> None:
    if isinstance(config, ConfigDict) or recipe is None:
        return
    # config_flags keeps an OSError to itself until a field is asked for.
    hidden = getattr(config, "_error", None)
    if hidden:
        raise hidden
    raise UserError(
        f"the recipe {recipe}: get_config() returns {type(config).__name__}, not a config: "
        "start from default.get_config()"
    )


def _check_mode(args) -> None:
    for name, modes in USED_BY.items():
        if getattr(args, name) and args.mode not in modes:
            raise UserError(f"--{name} is for {' and '.join(f'--mode={mode}' for mode in modes)}")


def _explain(error: Exception, argv: list[str]) -> str:
    """What is wrong with the flags, in one line."""
    names = {f"config.{name}" for name in config_lib.flatten(default.get_config())}
    groups = {name.rsplit(".", 1)[0] for name in names} - {"config"}
    words = " ".join(str(error).split())
    recipe = None
    for name, value in _arguments(argv):
        if name == "config":
            recipe = value.partition(":")[0]
            wrong = _no_recipe(recipe)
            if wrong:
                return wrong
        elif name in groups and words.startswith(f"flag --{name}="):
            fields = sorted(field.rpartition(".")[2] for field in names if field.startswith(name))
            return f"--{name} is a group of fields, --{name}.FIELD with one of {', '.join(fields)}"
        elif name.startswith("config.") and name not in names | groups:
            hint = config_lib.nearest(name, names)
            return f"there is no field --{files.shown(name)}{hint} (configs/default.py explains every field)"
        elif name.startswith("config.") and recipe is None:
            return (
                f"--{name} changes a field of a recipe: put --config=RECIPE before it "
                "(for the recipe of an earlier run: --config=configs/rerun.py:RUNDIR)"
            )
    if isinstance(error, UserError):
        return str(error)
    if recipe and (not isinstance(error, flags.Error) or words.startswith("flag --config=")):
        return _explain_recipe(error, recipe)
    for python, takes in WHAT_A_FLAG_TAKES.items():
        if python in words:
            words = f"{words.partition(': ')[0]}: it takes {takes}"
    return words if len(words) <= 400 else f"{words[:100]} ... {words[-200:]}"


def _no_recipe(path: str) -> str:
    """Why a path is no recipe, or nothing."""
    if not path:
        return str(_missing_config())
    if os.path.isdir(path):
        return f"{path} is a folder: give a recipe in it, --config=FILE"
    if not os.path.exists(path):
        hint = config_lib.nearest(path, [recipe for recipe, _ in list_recipes()])
        return f"there is no recipe {path!r}{hint} (python main.py lists them)"
    if not os.path.isfile(path):
        return f"{files.shown(path)} is a pipe, socket or device, not a recipe"
    if not path.endswith(".py"):
        return f"{path} is no recipe: that is a Python file (.py) with a function get_config"
    return ""


def _explain_recipe(error: BaseException, recipe: str) -> str:
    """What is wrong in a recipe's code, and where, out of what config_flags wraps it in."""
    path = os.path.abspath(recipe)
    lines = []
    while True:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if os.path.abspath(frame.filename) == path]
        if lines or error.__context__ is None:
            break
        error = error.__context__
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, SystemExit):
        return f"the recipe {recipe} ends the program: get_config() is to return a config"
    if isinstance(error, AttributeError) and error.name == "get_config":
        return f"the recipe {recipe} has no function get_config"
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
    return UserError(
        "\n".join(["give a recipe with --config=FILE, one of these or your own:", *lines])
    )


def run_train(args) -> int:
    """--mode=train: a new run, or on with the one in --workdir; returns the exit status."""
    _set_determinism(args)
    config = parallel.in_every_process(lambda: _config_to_train(args), "config")
    if args.workdir:
        return train.train(config, args.workdir)
    recipe = os.path.basename(flags.FLAGS["config"].config_filename.partition(":")[0])
    workdir = files_of.new_workdir(recipe.removesuffix(".py"))
    say(f"workdir: {workdir}")

    def remove_empty():
        # A folder in which nothing was begun, as when the data are not there, is not left behind.
        with contextlib.suppress(OSError):
            os.rmdir(workdir)

    interruption.before_leaving(remove_empty)
    try:
        return train.train(config, workdir)
    except UserError:
        remove_empty()
        raise


def _set_determinism(args) -> None:
    """Does what config.deterministic asks for; first of all, as anything may start the devices."""
    config = args.config
    if config is None and args.workdir:
        # What is wrong with the workdir is said where its config is needed.
        with contextlib.suppress(UserError):
            config = files_of.read_config(args.workdir, default.get_config())
    if config is not None and config.get("deterministic") is True:
        determinism.enable()


def _config_to_train(args) -> ConfigDict:
    """The config of --config or of --workdir, which is sound and fits the workdir."""
    config = args.config
    if config is None:
        if not args.workdir:
            raise _missing_config()
        config = files_of.read_config(args.workdir, default.get_config())
    config_lib.validate(config, default.get_config())
    if args.workdir:
        files_of.check_recipe(args.workdir, config, default.get_config())
    elif parallel.has_others():
        raise UserError("a run by several processes needs --workdir, the same for all")
    if config.profile and parallel.is_main():
        profiling.make_folder(config.profile)
    if config.init_from and not (args.workdir and files_of.has_run(args.workdir)):
        run.check_init_from(config)
    return config


def run_evaluate(args) -> int:
    """--mode=eval: accuracy on the test split, overall and per class."""
    _set_determinism(args)
    which = args.weights or "best"
    found = inference.find_weights(which, args.workdir, default.get_config())
    config = args.config
    if config is None and args.workdir:
        config = files_of.read_config(args.workdir, default.get_config())
    if config is None:
        config = default.get_config()
        config.dataset.name = found.dataset["name"]
        config.dataset.labels = str(found.dataset.get("labels", "fine"))
    config_lib.validate(config, default.get_config())
    config.dataset.image_size = found.image_size
    dataset = datasets.load(config.dataset, config.seed)
    if dataset.class_names != found.class_names:
        theirs, ours = (", ".join(x.class_names[:3]) for x in (found, dataset))
        raise UserError(
            f"the weights know other classes ({theirs}, ...) than the data set {dataset.name} has "
            f"({ours}, ...): give a recipe of their data set with --config"
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
    report = _read_report(path)
    report.setdefault("eval", {})[which] = result.to_dict()
    reports.write_json(path, report)
    return [picture, path]


def _read_report(path: str) -> dict:
    if os.path.exists(path):
        files.check_regular_file(path)
    try:
        with open(path, encoding="utf-8") as file:
            report = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {files.reason(error)}; move it away") from None
    if not isinstance(report, dict):
        raise UserError(f"{path} is not a report: move it away")
    return report


def run_predict(args) -> int:
    """--mode=predict: the five most probable classes of each picture; 1 if one cannot be read."""
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
