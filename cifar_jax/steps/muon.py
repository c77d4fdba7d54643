"""Muon for convolution kernels: Optax transformations that orthogonalise the momentum.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024, in the variant of
airbench94_muon.py (https://github.com/KellerJordan/cifar10-airbench). Kernels are orthogonalised together, as
batches of matrices; Optax's own Muon takes them one by one.
"""

import collections

import jax
import jax.numpy as jnp
import optax
from jax import lax

from cifar_jax.ops import cpu_kernels

# a, b, c of x -> a x + b x^3 + c x^5. Singular values end between about 0.7 and 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
EPSILON = 1e-7


def newton_schulz(matrices, steps: int, dtype):
    """Moves the singular values of matrices [n, rows, columns] close to 1 and keeps the singular vectors.

    Computes in `dtype`, after scaling each matrix to norm 1. The result has the dtype of the input.
    """
    a, b, c = COEFFICIENTS
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else jnp.swapaxes(matrices, 1, 2)
    x = (x / (jax.vmap(_norm)(x)[:, None, None] + EPSILON)).astype(dtype)
    for _ in range(steps):
        square = _matmul(x, jnp.swapaxes(x, 1, 2))
        x = a * x + _matmul(b * square + c * _matmul(square, square), x)
    x = x.astype(matrices.dtype)
    return x if wide else jnp.swapaxes(x, 1, 2)


def _norm(x):
    """The norm over all elements. XLA's order within one large sum depends on the cores: so, two sums."""
    return jnp.sqrt(jnp.sum(lax.optimization_barrier(jnp.sum(jnp.square(x), axis=-1))))


def _matmul(a, b):
    """The products of matrices [n, rows, k] and [n, k, columns].

    On the CPU, our 1x1 convolution computes them: its bits do not depend on the number of cores.
    """
    if not cpu_kernels.available(a, b):
        return a @ b
    rows = [
        cpu_kernels.convolve(x[None, :, None], y[None, None], 1, ((0, 0), (0, 0)), False)
        for x, y in zip(a, b, strict=True)
    ]
    return jnp.stack([row[0, :, 0] for row in rows])


def orthogonalize(steps: int, dtype) -> optax.GradientTransformation:
    """Orthogonalises the updates of kernels [height, width, in, out], as matrices with `out` columns."""

    def update(updates, params=None):
        del params
        kernels, structure = jax.tree.flatten(updates)
        batches = collections.defaultdict(list)
        for place, kernel in enumerate(kernels):
            # A GPU computes all in one batch, padded with zeros. On a CPU, zeros would take time.
            batches[kernel.shape if cpu_kernels.on_cpu() else "all"].append(place)
        for places in batches.values():
            matrices = [kernels[place].reshape(-1, kernels[place].shape[-1]) for place in places]
            for place, result in zip(places, _together(matrices, steps, dtype), strict=True):
                kernels[place] = result.reshape(kernels[place].shape)
        return jax.tree.unflatten(structure, kernels)

    return optax.stateless(update)


def _together(matrices, steps, dtype):
    """The result of `newton_schulz` for each matrix of a list. Zeros beside a matrix stay zeros."""
    if len({x.shape for x in matrices}) == 1:
        return newton_schulz(jnp.stack(matrices), steps, dtype)
    wide = [x if x.shape[0] <= x.shape[1] else x.T for x in matrices]
    rows, columns = (max(x.shape[axis] for x in wide) for axis in range(2))
    padded = [jnp.pad(x, ((0, rows - x.shape[0]), (0, columns - x.shape[1]))) for x in wide]
    results = newton_schulz(jnp.stack(padded), steps, dtype)
    cut = [result[: x.shape[0], : x.shape[1]] for x, result in zip(wide, results, strict=True)]
    return [y if x.shape == y.shape else y.T for x, y in zip(matrices, cut, strict=True)]


def keep_norms() -> optax.GradientTransformation:
    """Scales each kernel [..., out] to the norm sqrt(out) before its step. Must come last in a chain.

    Followed by batch norm, the network does not depend on a kernel's norm. But the larger the norm, the
    less a step turns the kernel.
    """

    def update(updates, params):
        def change(update, kernel):
            return update + kernel * (kernel.shape[-1] ** 0.5 / (_norm(kernel) + EPSILON) - 1)

        return jax.tree.map(change, updates, params)

    return optax.stateless(update)
