"""The machine around the program: files, memory, signals and the terminal. Nothing here imports JAX.

Take from here: `console`, `files`, `interruption`, `malloc`, `memory`, `modules`, `start_time` and `threads`.
"""

__all__ = [
    "console",
    "files",
    "interruption",
    "malloc",
    "memory",
    "modules",
    "start_time",
    "threads",
]
