"""The command line: flags and their mistakes, and what each mode does.

Take from here: `arguments`, `one_run` (train, eval, predict and export) and `many_runs` (compare and
sweep).
"""

__all__ = ["arguments", "many_runs", "one_run"]
