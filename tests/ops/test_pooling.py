"""Max pooling, forward and backward, compared with Flax's, in each of the ways that it is computed."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_jax.ops import cpu_kernels, pooling


@pytest.mark.parametrize("way", ["kernel", "slices", "places"])
@pytest.mark.parametrize(
    ("shape", "window", "stride", "padding"),
    [
        ((2, 7, 8, 3), 2, 2, 0),
        ((2, 8, 7, 3), 3, 2, 1),
        ((1, 5, 5, 1), 3, 1, 1),
        ((2, 6, 5, 21), 2, 2, 0),
        ((1, 9, 8, 2), 3, 3, 0),
    ],
)
def test_max_pool_is_the_native_one_forward_and_backward(
    shape, window, stride, padding, way, monkeypatch
):
    if way != "kernel":
        monkeypatch.setattr(cpu_kernels, "available", lambda *arrays: False)
    if way == "places":  # as on a GPU
        monkeypatch.setattr(cpu_kernels, "on_cpu", lambda: False)
    # Few different whole numbers, so that there are ties. All are negative, so padding with 0 would win.
    x = np.float32(np.random.default_rng(0).integers(-9, -4, size=shape))

    def ours(x):
        return pooling.max_pool(x, window, stride, padding)

    def native(x):
        sides = ((padding, padding), (padding, padding))
        return nn.max_pool(x, (window, window), (stride, stride), sides)

    def outcome(pool):
        y, vjp = jax.vjp(pool, jnp.asarray(x))
        return y, vjp(jnp.arange(y.size, dtype=y.dtype).reshape(y.shape))[0]

    for found, expected in zip(outcome(ours), outcome(native), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(ours(x), native(x))
    x[-1] = -np.inf  # as small as the padding
    np.testing.assert_array_equal(outcome(ours)[0], native(x))
    x[0, 1, 1, 0] = np.nan  # must reach the loss: training stops on NaN
    assert np.any(np.isnan(ours(x)))
    np.testing.assert_array_equal(ours(x), native(x))
