"""Equal bits from equal runs on every device: the XLA flags of `config.deterministic`.

On a CPU, equal runs give equal bits anyway. On a GPU, XLA measures at each start which of several
programs for an operation is fastest, and some programs add in the order in which their threads finish.
These flags make XLA take the first program that adds in a fixed order, which is slower.
"""

import os

from jax._src import xla_bridge

from cifar_jax.errors import UserError

# https://openxla.org/xla/determinism. XLA reads them when the devices start. Today the first implies the
# second; setting both makes sure that no measurement ever decides.
FLAGS = {"xla_gpu_deterministic_ops": "true", "xla_gpu_autotune_level": "0"}


def enable() -> None:
    """Makes XLA compute deterministically. Call it before the devices start.

    Keeps all other flags of XLA_FLAGS.

    Raises:
      UserError: XLA_FLAGS contradicts these flags, or the devices have started already.
    """
    words = os.environ.get("XLA_FLAGS", "").split()
    given = dict(_parsed(word) for word in words if word.startswith("--"))
    for name, value in FLAGS.items():
        if given.get(name, value) != value:
            raise UserError(
                f"config.deterministic needs --{name}={value}, but XLA_FLAGS says "
                f"{given[name]!r}: remove that"
            )
    missing = [f"--{name}={value}" for name, value in FLAGS.items() if name not in given]
    if missing and xla_bridge.backends_are_initialized():
        raise UserError(
            f"config.deterministic comes too late, the devices have started: set "
            f"XLA_FLAGS='{' '.join(missing)}' in the environment"
        )
    os.environ["XLA_FLAGS"] = " ".join([*words, *missing])


def _parsed(word: str) -> tuple[str, str]:
    name, _, value = word.removeprefix("--").partition("=")
    return name, value.lower() or "true"
