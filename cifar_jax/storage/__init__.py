"""The folder of a run (the workdir): its files, its lock, its checkpoints, and what it was made from.

Take from here: `workdir`, `provenance`, and the classes `Checkpoints` and `Lock`.
"""

from cifar_jax.storage.checkpoint import Checkpoints
from cifar_jax.storage.lock import Lock

__all__ = ["Checkpoints", "Lock", "provenance", "workdir"]
