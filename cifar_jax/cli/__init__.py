"""The command line: flags and their mistakes, and what each mode does.

Take from here: `command` (the program itself), `arguments` (parses the flags) and `MODES` (the function of
each mode).
"""

from cifar_jax.cli.modes import MODES

__all__ = ["MODES", "arguments", "command"]
