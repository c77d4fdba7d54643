"""The vectors of a state as one array, which the loop over the steps carries.

A network has hundreds of them: scales, biases, running statistics, and what the optimizer keeps of them. A
GPU would update each in a kernel of its own, and copy those that are read again after they were written.
For a CPU nothing is packed: it would gain nothing, and compiling would take twice as long.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

# (vectors float32 [n], the other leaves).
Packed = tuple[jax.Array, list]


def packing(state) -> tuple[Callable[[object], Packed], Callable[[Packed], object]]:
    """(pack, unpack) for states like this one: pack(state) -> `Packed`, unpack(pack(state)) == state."""
    leaves, structure = jax.tree.flatten(state)
    is_vector = [leaf.ndim == 1 and leaf.dtype == jnp.float32 for leaf in leaves]
    sizes = [leaf.size for leaf, packs in zip(leaves, is_vector, strict=True) if packs]
    ends = np.cumsum(sizes).tolist()

    def pack(state) -> Packed:
        leaves = list(zip(jax.tree.leaves(state), is_vector, strict=True))
        vectors = [leaf for leaf, packs in leaves if packs]
        together = jnp.concatenate(vectors) if vectors else jnp.zeros(0)
        return together, [leaf for leaf, packs in leaves if not packs]

    def unpack(packed: Packed):
        together, others = packed
        vectors = iter([together[end - size : end] for end, size in zip(ends, sizes, strict=True)])
        others = iter(others)
        leaves = [next(vectors if packs else others) for packs in is_vector]
        return jax.tree.unflatten(structure, leaves)

    return pack, unpack
