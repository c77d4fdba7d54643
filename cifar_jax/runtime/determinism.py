"""Equal bits from equal runs, on every device: what `config.deterministic` asks of XLA.

On a CPU that is so without it. On a GPU, XLA measures which of several programs for an operation is the
fastest, anew at each start, and some programs add in whatever order their threads end. The flags have
it take the first program that adds in a fixed order, which is slower.
"""

import os

from jax._src import xla_bridge

from cifar_jax.errors import UserError

# https://openxla.org/xla/determinism. XLA reads them when the devices are started. The first implies
# the second today; that no measurement decides is what must stay so.
FLAGS = {"xla_gpu_deterministic_ops": "true", "xla_gpu_autotune_level": "0"}


def enable() -> None:
    """Has XLA compute deterministically; call it before the devices are started.

    What the user says in XLA_FLAGS beside these flags stays as it is.

    Raises:
      UserError: XLA_FLAGS asks for the contrary, or the devices are started already.
    """
    words = os.environ.get("XLA_FLAGS", "").split()
    given = dict(_parsed(word) for word in words if word.startswith("--"))
    for name, value in FLAGS.items():
        if given.get(name, value) != value:
            raise UserError(
                f"config.deterministic needs --{name}={value}, but XLA_FLAGS says "
                f"{given[name]!r}: take that out"
            )
    missing = [f"--{name}={value}" for name, value in FLAGS.items() if name not in given]
    if missing and xla_bridge.backends_are_initialized():
        raise UserError(
            f"config.deterministic comes too late, the devices are started: set "
            f"XLA_FLAGS='{' '.join(missing)}' in the environment"
        )
    os.environ["XLA_FLAGS"] = " ".join([*words, *missing])


def _parsed(word: str) -> tuple[str, str]:
    name, _, value = word.removeprefix("--").partition("=")
    return name, value.lower() or "true"
