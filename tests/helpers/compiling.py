"""`fast_jit`: `jax.jit` for tests, in which compiling takes much longer than running."""

import functools

import jax

# Without XLA's optimisations, programs compile several times faster and run slower.
fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
