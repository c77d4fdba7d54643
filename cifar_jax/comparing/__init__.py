"""Many runs: training them in a sweep, reading them, and their table and curves.

Take from here: the classes and functions below, and the modules `comparison` (reads runs and groups them
by recipe), `table`, `curves` and `sweep`.
"""

from cifar_jax.comparing.comparison import FOLDER, Comparison, Recipe, RunResult, differences

__all__ = [
    "FOLDER",
    "Comparison",
    "Recipe",
    "RunResult",
    "comparison",
    "curves",
    "differences",
    "sweep",
    "table",
]
