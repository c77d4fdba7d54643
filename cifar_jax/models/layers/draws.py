"""The random numbers of initial weights, for a whole network in one pass.

XLA compiles a loop and a formula for each array that is drawn, which takes a tenth of a second; a network
has dozens. Inside `drawn_together`, initialisers only say what they need, and one loop draws all of it. Each
array has a key of its own all the same: its numbers are those of `jax.random.normal` or `jax.random.uniform`
in a compiled program.
"""

import contextvars
import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry2x32_p

# Arrays are drawn in rows of this many numbers, and cut to size.
ROW = 1024

# The draws of the `drawn_together` that runs now.
_wanted = contextvars.ContextVar("wanted", default=None)


@dataclasses.dataclass(frozen=True)
class _Draw:
    """An array to be drawn: `finish(x)`, where `distribution` makes x from U(0, 1).

    `placeholder` stands for it in a network's variables until it is drawn.
    """

    key: jax.Array
    shape: tuple
    distribution: Callable
    finish: Callable
    placeholder: jax.Array | None = None

    @property
    def rows(self) -> int:
        return -(-math.prod(self.shape) // ROW)


def draw_normal(key: jax.Array, shape: tuple, deviation: np.float32, dtype) -> jax.Array:
    """N(0, deviation^2)."""
    factor = np.float32(math.sqrt(2)) * deviation
    return _drawn(key, shape, _inverse_error, lambda x: (x * factor).astype(dtype))


def draw_uniform(
    key: jax.Array, shape: tuple, bound: float, dtype, finish: Callable = lambda x: x
) -> jax.Array:
    """`finish(x)`, where x is U(-bound, bound)."""
    low, high = np.float32(-bound), np.float32(bound)

    def between(x):
        return finish(jnp.maximum(low, x * (high - low) + low).astype(dtype))

    return _drawn(key, shape, _unchanged, between)


def drawn_together(init: Callable, *args):
    """`init(*args)`, a tree of arrays, where what `draw_normal` and `draw_uniform` gave is drawn in one pass.

    To be compiled: otherwise there is nothing to gain. What `init` computes from an array that is not drawn
    yet is NaN. It may not draw inside a transformation such as `nn.scan` or `nn.remat`.
    """
    wanted = []
    token = _wanted.set(wanted)
    try:
        tree = init(*args)
    finally:
        _wanted.reset(token)
    values = {}
    for distribution in {draw.distribution: None for draw in wanted}:
        same = [draw for draw in wanted if draw.distribution is distribution]
        arrays = zip(same, _draw(same), strict=True)
        values |= {id(draw.placeholder): value for draw, value in arrays}
    found = {id(leaf) for leaf in jax.tree.leaves(tree)}
    assert values.keys() <= found, "an initial weight was changed before it was drawn"
    return jax.tree.map(lambda leaf: values.get(id(leaf), leaf), tree)


def _drawn(key, shape, distribution, finish):
    wanted = _wanted.get()
    if wanted is None:
        return _draw([_Draw(key, shape, distribution, finish)])[0]
    placeholder = jnp.full(shape, jnp.nan, jnp.float32)
    wanted.append(_Draw(key, shape, distribution, finish, placeholder))
    return placeholder


def _draw(draws: list[_Draw]) -> list[jax.Array]:
    """The arrays of draws that have the same distribution."""
    rows = tuple(draw.rows for draw in draws)
    numbers = _numbers([draw.key for draw in draws], rows, draws[0].distribution)
    arrays, start = [], 0
    for draw in draws:
        flat = numbers[start : start + draw.rows].ravel()[: math.prod(draw.shape)]
        arrays.append(draw.finish(flat.reshape(draw.shape)))
        start += draw.rows
    return arrays


@functools.partial(jax.jit, static_argnums=(1, 2))
def _numbers(keys: list[jax.Array], rows: tuple[int, ...], distribution: Callable) -> jax.Array:
    """`distribution` of U(0, 1), float32 [sum of rows, ROW], where each key has its number of rows.

    As in jax.random.uniform, number i of a key is Threefry's of the counter i.
    """
    keys = [
        jnp.broadcast_to(jax.random.key_data(key), (count, 2))
        for key, count in zip(keys, rows, strict=True)
    ]
    words = jnp.concatenate(keys).T[:, :, None]
    first = jnp.concatenate([jax.lax.iota(jnp.uint32, count) * ROW for count in rows])
    counter = first[:, None] + jnp.arange(ROW, dtype=jnp.uint32)
    high, low = threefry2x32_p.bind(*words, jnp.zeros_like(counter), counter)
    mantissa = (high ^ low) >> np.uint32(9)
    one_to_two = mantissa | np.float32(1).view(np.uint32)
    return distribution(jax.lax.bitcast_convert_type(one_to_two, jnp.float32) - 1)


def _unchanged(x: jax.Array) -> jax.Array:
    return x


def _inverse_error(x: jax.Array) -> jax.Array:
    """N(0, 1/2) from U(0, 1), as in jax.random.normal."""
    low = np.nextafter(np.float32(-1), np.float32(0))
    return jax.lax.erf_inv(jnp.maximum(low, x * (1 - low) + low))
