"""Devices, processes, and how JAX compiles programs. Only this folder asks JAX for its devices.

Take from here: `parallel` (mapping over devices, collectives, processes), `programs` (compiling them ahead),
`determinism`, `settings` and `compile_cache`.
"""

__all__ = ["compile_cache", "determinism", "parallel", "programs", "settings"]
