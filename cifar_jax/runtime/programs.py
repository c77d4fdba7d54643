"""Programs that are compiled before their first call, at the same time.

On a GPU, nearly all of a start is XLA trying out algorithms, one program after the other; threads do so side
by side. On a CPU this gains nothing, because XLA uses all cores for each program.
"""

import concurrent.futures
import os
import time

import jax

from cifar_jax.runtime import parallel

# The first line while compiling comes after this long; each further one after twice as long.
FIRST_LINE_SECONDS = 3.0


def compile_together(programs: dict, autotune_level: int | None = None) -> dict:
    """Compiles mapped functions, and prints what is being compiled while it lasts.

    Args:
      programs: name -> (mapped function, its arguments). Nothing is computed and nothing donated.
      autotune_level: on a GPU, XLA's `xla_gpu_autotune_level`, unless XLA_FLAGS sets it. None: XLA's own.

    Returns:
      Name -> the compiled program, called like the function, with arguments of the same shapes. With several
      processes: the function, which compiles at its first call (JAX's pmap compiles ahead for one only).
    """
    if parallel.has_others():
        return {name: function for name, (function, _) in programs.items()}
    options = compiler_options(autotune_level)
    start, patience = time.perf_counter(), FIRST_LINE_SECONDS
    with concurrent.futures.ThreadPoolExecutor(len(programs)) as pool:
        futures = {
            name: pool.submit(_compile, function, arguments, options)
            for name, (function, arguments) in programs.items()
        }
        while True:
            left = max(0.0, start + patience - time.perf_counter())
            _, waiting = concurrent.futures.wait(futures.values(), left)
            if not waiting:
                break
            names = " and ".join(name for name in futures if futures[name] in waiting)
            parallel.say(f"compiling {names}: {patience:.0f} s so far")
            patience *= 2
    return {name: future.result() for name, future in futures.items()}


def compiler_options(autotune_level: int | None) -> dict:
    """The options of XLA for a program on these devices."""
    given = "xla_gpu_autotune_level" in os.environ.get("XLA_FLAGS", "")
    if autotune_level is None or given or jax.default_backend() != "gpu":
        return {}
    return {"xla_gpu_autotune_level": autotune_level}


def _compile(function, arguments, options):
    return function.lower(*arguments).compile(compiler_options=options)
