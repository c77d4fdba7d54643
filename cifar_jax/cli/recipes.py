"""The recipe files in configs/: listing them, and why a path is not a recipe."""

import ast
import glob
import os

from cifar_jax import config as config_lib
from cifar_jax.errors import UserError
from cifar_jax.system import files
from configs import default

RECIPES = os.path.dirname(os.path.abspath(default.__file__))


def list_recipes() -> list[tuple[str, str]]:
    """(path relative to the current folder, first line of the docstring) of every recipe in configs/."""
    paths = glob.glob(os.path.join(RECIPES, "**", "*.py"), recursive=True)
    recipes = []
    for path in sorted(paths, key=lambda path: (path.count(os.sep), path)):
        if os.path.basename(path) not in ("__init__.py", "default.py"):
            with open(path, encoding="utf-8") as file:
                docstring = ast.get_docstring(ast.parse(file.read())) or ""
            recipes.append((os.path.relpath(path), docstring.partition("\n")[0]))
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
