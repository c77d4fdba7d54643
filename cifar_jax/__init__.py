"""A pure-functional JAX/Flax trainer for CIFAR-10/100: small, exact and fast.

    import cifar_jax

    network = cifar_jax.load("resnet20_v2")
    network.predict("frog.png", top=3)

docs/python.md describes every function. They are imported when they are first used, so importing the package
is quick, and it changes nothing in the process.
"""

from typing import TYPE_CHECKING

from cifar_jax.errors import UserError

if TYPE_CHECKING:
    from cifar_jax.api import Network, dataset, history, load, recipe, train

__version__ = "0.1.0"

__all__ = ["Network", "UserError", "dataset", "history", "load", "recipe", "train"]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cifar_jax.system import modules

    with modules.our_configs():
        from cifar_jax import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
