"""One line for whatever is wrong with the flags or with a recipe's code."""

from absl import flags

from cifar_jax import config as config_lib
from cifar_jax.api import recipes
from cifar_jax.errors import UserError
from cifar_jax.system import files
from configs import default

# What Python says about a value that does not parse, and what the flag takes.
WHAT_A_FLAG_TAKES = {
    "Non-boolean argument": "true or false",
    "invalid literal for int": "a whole number",
    "could not convert string to float": "a number",
}


def names_and_values(argv: list[str]) -> list[tuple[str, str]]:
    """(name, value) of each flag. Only --config may have its value in the next argument."""
    found, args = [], iter(argv[1:])
    for arg in args:
        name, equals, value = arg.lstrip("-").partition("=")
        if name == "config" and not equals:
            value = next(args, "")
        found.append((name, value))
    return found


def explain(error: BaseException, argv: list[str]) -> str:
    """What is wrong, in one line.

    Args:
      error: what parsing the flags, or the recipe, raised.
      argv: the command line.
    """
    recipe, line = _flag_error(argv, " ".join(str(error).split()))
    if line:
        return line
    if isinstance(error, UserError):
        return str(error)
    words = " ".join(str(error).split())
    if words.startswith("--no") and words.endswith("does not take an argument"):
        return words  # a ValueError of absl
    if recipe and (not isinstance(error, flags.Error) or words.startswith("flag --config=")):
        return recipes.code_error(error, recipe)
    if isinstance(error, flags.UnrecognizedFlagError):
        hint = config_lib.nearest(f"--{error.flagname}", [f"--{name}" for name in flags.FLAGS])
        return f"there is no flag --{files.shown(error.flagname)}{hint}"
    for python, takes in WHAT_A_FLAG_TAKES.items():
        if python in words:
            words = f"{words.partition(': ')[0]}: it takes {takes}"
    return words if len(words) <= 400 else f"{words[:100]} ... {words[-200:]}"


def _flag_error(argv: list[str], words: str) -> tuple[str | None, str]:
    """(recipe, what is wrong with it or with a field's flag); `words` is what the parser said."""
    names = {f"config.{name}" for name in default.FIELDS}
    groups = {name.rsplit(".", 1)[0] for name in names} - {"config"}
    recipe = None
    for name, value in names_and_values(argv):
        if name == "config":
            recipe = value.partition(":")[0]
            line = recipes.path_error(recipe)
            if line:
                return recipe, line
        elif name in groups and words.startswith(f"flag --{name}="):
            fields = sorted(field.rpartition(".")[2] for field in names if field.startswith(name))
            takes = f"--{name}.FIELD with one of {', '.join(fields)}"
            return recipe, f"--{name} is a group of fields, {takes}"
        elif name.startswith("config.") and name not in names | groups:
            hint = f"{config_lib.nearest(name, names)} (configs/default.py explains every field)"
            return recipe, f"there is no field --{files.shown(name)}{hint}"
        elif name.startswith("config.") and recipe is None:
            return recipe, (
                f"--{name} changes a field of a recipe: put --config=RECIPE before it "
                "(for the recipe of an earlier run: --config=configs/rerun.py:RUNDIR)"
            )
    return recipe, ""
