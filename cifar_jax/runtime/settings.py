"""JAX's settings: those that results depend on are fixed, those that belong to the user are recorded.

JAX reads its settings from environment variables such as JAX_ENABLE_X64. Some of them silently change which
numbers a run draws or computes, so the program sets them itself.
"""

import contextlib
import os
import threading
from collections.abc import Iterable

import jax

from cifar_jax.system import threads

# JAX's own defaults. With other values, the same seed would train another network, or tracing would fail.
FIXED = {
    "jax_enable_x64": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_high_dynamic_range_gumbel": False,
    "jax_enable_custom_prng": False,
    "jax_legacy_prng_key": "allow",
    "jax_debug_key_reuse": False,
    "jax_disable_jit": False,
}


def fix() -> None:
    """Gives JAX the settings that results depend on, whatever the environment says."""
    for name, value in FIXED.items():
        if hasattr(
            jax.config, name
        ):  # a version of JAX without a setting does not read its variable either
            jax.config.update(name, value)


@contextlib.contextmanager
def fixed():
    """Inside the `with`, JAX has the settings that results depend on; after it, those from before."""
    with _fixed_restored(), contextlib.ExitStack() as contexts:
        fix()
        # A context of JAX in this thread, as `with jax.enable_x64(True)`, comes before what was fixed.
        for name, value in FIXED.items():
            if getattr(jax.config, name, value) != value:
                contexts.enter_context(getattr(jax, name.removeprefix("jax_"))(value))
        yield


@threads.shared
def _fixed_restored():
    return restored(FIXED)


@contextlib.contextmanager
def restored(names: Iterable[str]):
    """After the `with`, JAX's settings of these names are those from before."""
    before = _of_the_process(names)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def _of_the_process(names: Iterable[str]) -> dict:
    """JAX's settings of these names, without the contexts of JAX that this thread is in."""
    found = {}

    def read():
        found.update(
            {name: getattr(jax.config, name) for name in names if hasattr(jax.config, name)}
        )

    elsewhere = threading.Thread(target=read)
    try:
        elsewhere.start()
    except RuntimeError:  # Python is ending
        read()
    else:
        elsewhere.join()
    return found


def of_the_user() -> dict[str, str]:
    """Settings that change rounding and are the user's choice; "" for those that are not set."""
    return {
        "JAX_DEFAULT_MATMUL_PRECISION": jax.config.jax_default_matmul_precision or "",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }
