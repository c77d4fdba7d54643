"""The functions of `import cifar_jax`. The command line is built on them.

Take from here: the names below, and the module `recipes` (finds and loads recipe files).
"""

from cifar_jax.api.network import Network, load
from cifar_jax.api.recipes import recipe
from cifar_jax.api.run import checked, dataset, history, train

__all__ = [
    "Network",
    "checked",
    "dataset",
    "history",
    "load",
    "recipe",
    "recipes",
    "train",
]
