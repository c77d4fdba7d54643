"""The flags and the recipe of a command line, with one line for every mistake in them."""

import itertools
import os
import sys

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from cifar_jax import config as config_lib
from cifar_jax.api import recipes
from cifar_jax.cli.explain import explain, names_and_values
from cifar_jax.errors import UserError
from cifar_jax.system import files
from configs import default

HELP = ("-h", "--help", "-help", "-?", "--helpfull", "--helpshort")
# The modes that use each flag. Giving a flag to another mode is a mistake.
USED_BY = {
    "config": ("train", "eval", "predict", "export"),
    "workdir": ("train", "eval", "predict", "export", "compare", "sweep"),
    "weights": ("eval", "predict", "export"),
    "image": ("predict",),
    "format": ("export",),
    "fit": ("predict",),
    "output": ("predict", "export"),
    "json": ("eval", "predict"),
    "recipes": ("sweep",),
    "seeds": ("sweep",),
    "target_accuracy": ("compare", "sweep"),
    "compiled": ("train", "eval", "predict", "sweep"),
    "distributed": ("train", "eval"),
    "coordinator_address": ("train", "eval"),
    "num_processes": ("train", "eval"),
    "process_id": ("train", "eval"),
}
# Flags of which absl would silently take the last. --workdir is counted where the mode is known.
ONCE = ("mode", "config", "weights", "fit", "format", "output", "seeds")
# Flags whose value is a path.
PATHS = ("config", "workdir", "weights", "image", "output", "recipes", "compiled")


def parse(argv: list[str], usage: str) -> list[str]:
    """Parses the flags and loads the config. Prints one line per mistake and exits with status 2.

    Args:
      argv: the command line.
      usage: what --help prints.

    Returns:
      The program's name, as absl expects the arguments that are left.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        raise _refusal("the current folder does not exist any more") from None
    if any(arg in HELP for arg in argv[1:]):
        print(usage.strip())
        sys.exit(0)
    argv = sys.argv[:] = _with_paths(argv)  # config_flags and a sweep read sys.argv
    if _is_sweep(argv):
        if _recipe(argv) is not None:
            raise _refusal(
                "--mode=sweep takes recipes and folders of them with --recipes=, not --config"
            )
        # Without --config there is no recipe yet whose fields could be changed.
        fields = fields_given(argv)
        argv = [arg for arg in argv if arg not in fields]
    try:
        return _parse(argv)
    except (Exception, SystemExit) as error:  # a recipe may call sys.exit
        first = explain(error, argv)
    lines = _mistakes(argv) or [first]
    raise _refusal("\n".join(lines))


def fields_given(argv: list[str]) -> list[str]:
    """The flags that change fields of the recipes of a sweep. Each must hold its value, after "="."""
    return [arg for arg in argv[1:] if arg.lstrip("-").startswith(("config.", "noconfig."))]


def load_recipe(recipe: str, fields) -> ConfigDict:
    """The valid config of a recipe, changed as by --config=RECIPE and more flags.

    Args:
      recipe: its path.
      fields: flags that change fields, as "--config.seed=1".

    Raises:
      UserError: the recipe cannot be loaded, or its config is not valid.
    """
    argv = ["", f"--config={recipe}", *fields]
    holder = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, flag_values=holder, sys_argv=argv)
    try:
        holder(argv)
        _check_config(holder.config, recipe)
        config_lib.expand_home(holder.config, default.FIELDS)
    except Exception as error:
        raise UserError(explain(error, argv)) from None
    try:
        config_lib.validate(holder.config, default.FIELDS)
    except UserError as error:
        raise UserError(f"{recipe}: {error}") from None
    return holder.config


def _parse(argv: list[str]) -> list[str]:
    """Parses into flags.FLAGS. Raises nearly anything for a mistake."""
    for name, value in names_and_values(argv):
        line = name == "config" and recipes.path_error(value.partition(":")[0])
        if line:
            raise UserError(line)  # before a recipe that is a pipe is waited for
    _check_given(flags.FLAGS.read_flags_from_files(argv))
    flags.FLAGS.set_gnu_getopt(True)  # flags may follow other arguments
    rest = _settle_workdir(flags.FLAGS, flags.FLAGS(argv))
    _check_config(flags.FLAGS.config, _recipe(argv))
    if isinstance(flags.FLAGS.config, ConfigDict):
        config_lib.expand_home(flags.FLAGS.config, default.FIELDS)
    _check_mode(flags.FLAGS)
    _check_init_from(flags.FLAGS)
    if len(rest) > 1:
        raise UserError(f"unexpected argument {files.shown(rest[1])!r}: every flag starts with --")
    return rest


def _with_paths(argv: list[str]) -> list[str]:
    """The arguments with paths as they are meant.

    "~" is expanded after "=" in flags that are paths, where shells leave it as it is. A recipe that is not
    below the current folder may be one of this program's, as `recipes.resolve` says.
    """
    expanded = []
    for arg in argv:
        name, equals, value = arg.partition("=")
        name = name.lstrip("-")
        if name in PATHS and value.startswith("~"):
            value = os.path.expanduser(value)
        if name in ("config", "recipes"):
            value = _resolved(value)
        elif not equals and expanded and expanded[-1].lstrip("-") in ("config", "recipes"):
            arg = _resolved(arg)
        if equals:
            arg = f"{arg.partition('=')[0]}={value}"
        expanded.append(arg)
    return expanded


def _resolved(recipe: str) -> str:
    path, colon, argument = recipe.partition(":")
    return recipes.resolve(path) + colon + argument


def _is_sweep(argv: list[str]) -> bool:
    words = [arg.lstrip("-") for arg in argv[1:]]
    return "mode=sweep" in words or ("mode", "sweep") in itertools.pairwise(words)


def _recipe(argv: list[str]) -> str | None:
    """The file of the last --config; None without one."""
    values = [value for name, value in names_and_values(argv) if name == "config"]
    return values[-1].partition(":")[0] if values else None


def _settle_workdir(args, rest: list[str]) -> list[str]:
    """Makes --workdir a list for compare and one folder for other modes; returns what is left over."""
    if args.mode == "compare":
        # A shell expands --workdir runs/* to --workdir runs/a runs/b.
        args.workdir = args.workdir + rest[1:]
        if "" in args.workdir:
            raise UserError("--workdir is empty")
        return rest[:1]
    if len(args.workdir) > 1:
        raise UserError("--workdir is given twice: only --mode=compare takes several")
    args.workdir = args.workdir[0] if args.workdir else ""
    return rest


def _check_config(config, recipe: str | None) -> None:
    """Raises an error if `config`, which --config made of a recipe, is not a config."""
    if isinstance(config, ConfigDict) or recipe is None:
        return
    # config_flags keeps an OSError to itself until a field is read.
    hidden = getattr(config, "_error", None)
    if hidden:
        raise hidden
    recipes.check_is_config(config, recipe)


def _check_given(argv: list[str]) -> None:
    """Raises UserError for a flag that is given twice, or empty, as --workdir=$RUN where RUN is not set."""
    seen = set()
    for group in _groups(argv[1:]):
        if not group[0].startswith("-"):
            continue
        name, equals, value = "=".join(group).lstrip("-").partition("=")
        if name in USED_BY and equals and not value:
            raise UserError(f"--{name} is empty")
        if name in ONCE and name in seen:
            raise UserError(f"--{name} is given twice")
        seen.add(name)


def _check_mode(args) -> None:
    if args.mode == "compare" and args.config is not None:
        raise UserError("--mode=compare takes no --config: every run has its own")
    for name, modes in USED_BY.items():
        value = getattr(args, name)
        is_given = value is not None and value is not False and value not in ("", [])
        if is_given and args.mode not in modes:
            raise UserError(f"--{name} is for {_listed(modes)}, not --mode={args.mode}")


def _check_init_from(args) -> None:
    # A recipe that has init_from may be given with the weights that it led to.
    name = "config.init_from"
    if args.mode == "train" or name not in args or not args[name].present:
        return
    if not args[name].value:
        raise UserError(f"--{name} is empty")
    if args.weights or args.workdir:
        other = "--weights" if args.weights else "--workdir"
        raise UserError(f"--{name} and {other} both name weights for --mode={args.mode}: give one")


def _listed(modes: tuple[str, ...]) -> str:
    *others, last = (f"--mode={mode}" for mode in modes)
    return f"{', '.join(others)} and {last}" if others else last


def _refusal(message: str) -> SystemExit:
    print(f"error: {message}", file=sys.stderr)
    return SystemExit(2)


def _mistakes(argv: list[str]) -> list[str]:
    """One line per flag that is wrong by itself, then per field that is wrong with the others.

    Loads the recipe again for each flag, which costs time only if something is wrong.
    """
    groups = _groups(argv[1:])
    is_context = [_name(group[0]) in ("config", "mode") for group in groups]
    lines, wrong = [], set()
    for place in range(len(groups)):
        # Try each flag beside only the recipe and the mode, in their places.
        tried = [g for i, g in enumerate(groups) if is_context[i] or i == place]
        error = _try([argv[0], *(arg for g in tried for arg in g)])
        if error is not None:
            wrong.add(place)
            lines.append(explain(error, [argv[0], *(arg for g in tried for arg in g)]))
            if is_context[place]:
                return lines[-1:]
    rest = [arg for i, group in enumerate(groups) if i not in wrong for arg in group]
    error = _try([argv[0], *rest])
    if error is not None:
        return [*lines, explain(error, [argv[0], *rest])]
    if isinstance(flags.FLAGS.config, ConfigDict):
        try:
            config_lib.validate(flags.FLAGS.config, default.FIELDS)
        except UserError as several:
            lines += str(several).splitlines()
    return list(dict.fromkeys(lines))


def _groups(args: list[str]) -> list[tuple[str, ...]]:
    """The flags, each with the value that may follow it: ("--config.seed=1",), ("--image", "a.png")."""
    groups = []
    for arg in args:
        # "-1" is the value of the flag before it.
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
    """The error that parsing these arguments raises, if any."""
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
