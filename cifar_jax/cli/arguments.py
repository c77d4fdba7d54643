"""The flags and the recipe, with a line for every mistake in them."""

import ast
import glob
import itertools
import os
import sys
import traceback

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from cifar_jax import config as config_lib
from cifar_jax.errors import UserError
from cifar_jax.system import files
from configs import default

HELP = ("-h", "--help", "-help", "-?", "--helpfull", "--helpshort")
USED_BY = {
    "image": ("predict",),
    "weights": ("eval", "predict", "export"),
    "format": ("export",),
    "output": ("predict", "export"),
    "json": ("eval", "predict"),
    "recipes": ("sweep",),
    "seeds": ("sweep",),
    "target_accuracy": ("compare", "sweep"),
}
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
        print(usage.strip())
        sys.exit(0)
    if _is_sweep(argv):
        if _recipe(argv) is not None:
            raise _refusal(
                "--mode=sweep takes recipes and folders of them with --recipes=, not --config"
            )
        # Without --config there is nothing that could take fields yet.
        fields = fields_given(argv)
        argv = [arg for arg in argv if arg not in fields]
    try:
        return _parse(argv)
    except (Exception, SystemExit) as error:  # a recipe may call sys.exit
        first = _explain(error, argv)
    lines = _mistakes(argv) or [first]
    raise _refusal("\n".join(lines))


def _parse(argv: list[str]) -> list[str]:
    """Parses in place, into flags.FLAGS; raises nearly anything for a mistake."""
    wrong = [
        _no_recipe(value.partition(":")[0]) for name, value in _arguments(argv) if name == "config"
    ]
    if any(wrong):
        raise UserError(next(filter(None, wrong)))  # a pipe would be waited for
    flags.FLAGS.set_gnu_getopt(True)  # flags may follow what is none
    rest = _settle_workdir(flags.FLAGS, flags.FLAGS(argv))
    _check_config(flags.FLAGS.config, _recipe(argv))
    _check_mode(flags.FLAGS)
    if len(rest) > 1:
        raise UserError(f"unexpected argument {files.shown(rest[1])!r}: every flag starts with --")
    return rest


def _is_sweep(argv: list[str]) -> bool:
    words = [arg.lstrip("-") for arg in argv[1:]]
    return "mode=sweep" in words or ("mode", "sweep") in itertools.pairwise(words)


def fields_given(argv: list[str]) -> list[str]:
    """The flags that change fields of the recipes of a sweep; each one's value behind "=" only."""
    return [arg for arg in argv[1:] if arg.lstrip("-").startswith(("config.", "noconfig."))]


def _settle_workdir(args, rest: list[str]) -> list[str]:
    """Makes --workdir a list for compare, else one folder; returns the arguments that are left."""
    if args.mode == "compare":
        # What a shell makes of --workdir runs/*
        args.workdir = args.workdir + rest[1:]
        return rest[:1]
    if len(args.workdir) > 1:
        raise UserError("--workdir is given twice: only --mode=compare takes several")
    args.workdir = args.workdir[0] if args.workdir else ""
    return rest


def _refusal(message: str) -> SystemExit:
    print(f"error: {message}", file=sys.stderr)
    return SystemExit(2)


def _mistakes(argv: list[str]) -> list[str]:
    """A line on each flag that is wrong by itself, then on each field of what the others make.

    The recipe is loaded again with each flag: that costs time only where something is wrong.
    """
    groups = _groups(argv[1:])
    is_context = [_name(group[0]) in ("config", "mode") for group in groups]
    lines, wrong = [], set()
    for place in range(len(groups)):
        # A flag's mistake is one if recipe and mode alone, in their places, have none.
        tried = [g for i, g in enumerate(groups) if is_context[i] or i == place]
        error = _try([argv[0], *(arg for g in tried for arg in g)])
        if error is not None:
            wrong.add(place)
            lines.append(_explain(error, [argv[0], *(arg for g in tried for arg in g)]))
            if is_context[place]:
                return lines[-1:]
    rest = [arg for i, group in enumerate(groups) if i not in wrong for arg in group]
    error = _try([argv[0], *rest])
    if error is not None:
        return [*lines, _explain(error, [argv[0], *rest])]
    if isinstance(flags.FLAGS.config, ConfigDict):
        try:
            config_lib.validate(flags.FLAGS.config, default.FIELDS)
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
    if args.mode == "compare" and args.config is not None:
        raise UserError("--mode=compare takes no --config: every run has its own")
    for name, modes in USED_BY.items():
        if getattr(args, name) not in (None, "", False, []) and args.mode not in modes:
            raise UserError(f"--{name} is for {_listed(modes)}")


def _listed(modes: tuple[str, ...]) -> str:
    *others, last = (f"--mode={mode}" for mode in modes)
    return f"{', '.join(others)} and {last}" if others else last


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
    if isinstance(error, flags.UnrecognizedFlagError):
        hint = config_lib.nearest(f"--{error.flagname}", [f"--{name}" for name in flags.FLAGS])
        return f"there is no flag --{files.shown(error.flagname)}{hint}"
    for python, takes in WHAT_A_FLAG_TAKES.items():
        if python in words:
            words = f"{words.partition(': ')[0]}: it takes {takes}"
    return words if len(words) <= 400 else f"{words[:100]} ... {words[-200:]}"


def _no_recipe(path: str) -> str:
    """Why a path is no recipe, or nothing."""
    if not path:
        return str(missing_config())
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


def missing_config() -> UserError:
    """What is said where a recipe is needed: it lists them."""
    recipes = list_recipes()
    width = max(len(path) for path, _ in recipes)
    lines = [f"  {path:{width}}  {line}" for path, line in recipes]
    return UserError(
        "\n".join(["give a recipe with --config=FILE, one of these or your own:", *lines])
    )


def load_recipe(recipe: str, fields) -> ConfigDict:
    """The config of a recipe with some fields changed, as --config and --config.FIELD make it."""
    argv = ["", f"--config={recipe}", *fields]
    holder = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, flag_values=holder, sys_argv=argv)
    try:
        holder(argv)
        _check_config(holder.config, recipe)
    except Exception as error:
        raise UserError(_explain(error, argv)) from None
    try:
        config_lib.validate(holder.config, default.FIELDS)
    except UserError as error:
        raise UserError(f"{recipe}: {error}") from None
    return holder.config
