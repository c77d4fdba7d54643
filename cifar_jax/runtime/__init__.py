"""Devices and processes, the only place that knows how many there are; and how programs are compiled.

Take from here: `parallel` (mapping over devices, collectives, processes), `determinism`, `settings` and
`compile_cache`.
"""

__all__ = ["compile_cache", "determinism", "parallel", "settings"]
