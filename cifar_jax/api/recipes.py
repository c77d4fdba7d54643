"""Recipe files: listing those in configs/, finding and loading one, and what is wrong with it in words."""

import ast
import glob
import os
import traceback

from ml_collections import ConfigDict

from cifar_jax import config as config_lib
from cifar_jax.api import given
from cifar_jax.errors import UserError
from cifar_jax.system import files, modules
from configs import default

# The folder configs/ of this program.
RECIPES = os.path.dirname(os.path.abspath(default.__file__))


def recipe(name: str | os.PathLike) -> ConfigDict:
    """The config of a recipe, to be changed and given to `train`.

    Args:
      name: the path of a recipe file, or one of this program's: "configs/quickstart.py",
        "configs.quickstart" or "quickstart" ("cifar100/softmax" for one in a folder). After a colon, an
        argument of the recipe: "configs/rerun.py:runs/NAME".

    Raises:
      UserError: there is no such recipe, or its code or a field is wrong.
    """
    path, colon, argument = given.path(name, "recipe", may_be_empty=True), "", ""
    if not os.path.isfile(path):  # the name of a folder may have a colon
        path, colon, argument = path.partition(":")
    path = resolve(path)
    line = path_error(path)
    if line:
        raise UserError(line)
    try:
        with modules.our_configs(), modules.of_file(path) as module:
            config = module.get_config(argument) if colon else module.get_config()
    except (Exception, SystemExit) as error:
        raise UserError(code_error(error, path)) from None
    check_is_config(config, path)
    try:
        config_lib.validate(config, default.FIELDS)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return config.lock()


def resolve(path: str) -> str:
    """The file, folder or pattern in configs/ of this program that a path means; else the path itself.

    Whatever exists under the path comes first.
    """
    if not path or os.path.exists(path) or glob.glob(path):
        return path
    name = path.removesuffix(".py")
    if os.sep not in name:
        name = name.replace(".", os.sep)
    if name == "configs":
        return RECIPES
    name = name.removeprefix(f"configs{os.sep}")
    for candidate in (os.path.join(RECIPES, f"{name}.py"), os.path.join(RECIPES, name)):
        if glob.glob(candidate):
            return candidate
    return path


def list_recipes() -> list[tuple[str, str]]:
    """(path as `resolve` takes it, first line of the docstring) of every recipe in configs/."""
    paths = glob.glob(os.path.join(RECIPES, "**", "*.py"), recursive=True)
    recipes = []
    for path in sorted(paths, key=lambda path: (path.count(os.sep), path)):
        if os.path.basename(path) not in ("__init__.py", "default.py"):
            with open(path, encoding="utf-8") as file:
                docstring = ast.get_docstring(ast.parse(file.read())) or ""
            name = os.path.relpath(path, os.path.dirname(RECIPES))
            recipes.append((name, docstring.partition("\n")[0]))
    return recipes


def missing_config() -> UserError:
    """The error for a missing --config. It lists the recipes."""
    recipes = list_recipes()
    width = max(len(path) for path, _ in recipes)
    lines = [f"  {path:{width}}  {line}" for path, line in recipes]
    return UserError(
        "\n".join(["give a recipe with --config=FILE, one of these or your own:", *lines])
    )


def path_error(path: str) -> str:
    """In words, why a path is not a recipe; empty if it may be one."""
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
        return f"{path} is not a recipe: a recipe is a Python file (.py) with a function get_config"
    return ""


def check_is_config(config, path: str) -> None:
    """Raises UserError unless `config`, which the recipe returned, is a config."""
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"the recipe {path}: get_config() returns {type(config).__name__}, not a config: "
            "start from default.get_config()"
        )


def code_error(error: BaseException, recipe: str) -> str:
    """What is wrong in a recipe's code, and in which line; `error` is what loading it raised."""
    path = os.path.abspath(recipe)
    lines = []
    while True:  # config_flags wraps the original error
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if os.path.abspath(frame.filename) == path]
        if lines or error.__context__ is None:
            break
        error = error.__context__
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, SystemExit):
        return f"the recipe {recipe} ends the program: get_config() must return a config"
    if isinstance(error, AttributeError) and error.name == "get_config":
        return f"the recipe {recipe} has no function get_config"
    where = f", line {lines[-1]}" if lines else ""
    return f"the recipe {recipe}{where}: {type(error).__name__}: {' '.join(str(error).split())}"
