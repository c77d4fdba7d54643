"""Devices, processes, and how JAX compiles programs. Only this folder knows how many devices there are.

Take from here: `parallel` (mapping over devices, collectives, processes), `determinism`, `settings` and
`compile_cache`.
"""

__all__ = ["compile_cache", "determinism", "parallel", "settings"]
