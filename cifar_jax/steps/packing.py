"""The vectors of a state in a few arrays, which the loop over the steps carries.

A network has hundreds of them: scales, biases, running statistics, and what the optimizer keeps of them. A
GPU would update each in a kernel of its own, and copy those that are read again after they were written.
For a CPU nothing is packed: it would gain nothing, and compiling would take twice as long.
"""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

# (arrays of vectors, each float32 [n]; the other leaves).
Packed = tuple[list, list]
# XLA fuses a limited number of arrays into one: MobileNetV2 in one array takes 88 kernels more than in three.
MOST_VECTORS = 128


def packing(state) -> tuple[Callable[[object], Packed], Callable[[Packed], object]]:
    """(pack, unpack) for states like this one: pack(state) -> `Packed`, unpack(pack(state)) == state."""
    leaves, structure = jax.tree.flatten(state)
    is_vector = [leaf.ndim == 1 and leaf.dtype == jnp.float32 for leaf in leaves]
    sizes = [leaf.size for leaf, packs in zip(leaves, is_vector, strict=True) if packs]
    arrays = -(-len(sizes) // MOST_VECTORS)
    bounds = np.linspace(0, len(sizes), arrays + 1).astype(int).tolist()
    groups = [slice(begin, end) for begin, end in itertools.pairwise(bounds)]

    def pack(state) -> Packed:
        leaves = list(zip(jax.tree.leaves(state), is_vector, strict=True))
        vectors = [leaf for leaf, packs in leaves if packs]
        together = [jnp.concatenate(vectors[group]) for group in groups]
        return together, [leaf for leaf, packs in leaves if not packs]

    def unpack(packed: Packed):
        vectors = []
        for group, together in zip(groups, packed[0], strict=True):
            vectors += jnp.split(together, np.cumsum(sizes[group])[:-1].tolist())
        vectors, others = iter(vectors), iter(packed[1])
        leaves = [next(vectors if packs else others) for packs in is_vector]
        return jax.tree.unflatten(structure, leaves)

    return pack, unpack
