"""Every convolution the models use equals the native one, forward and backward, in float64 and float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cifar_jax.convolution import conv_general_dilated

# size, kernel, stride, padding, channels in, channels out, groups
CASES = [
    (8, 3, 1, 1, 3, 4, 1),
    (8, 3, 2, 1, 3, 4, 1),
    (9, 3, 2, 1, 3, 4, 1),
    (9, 5, 1, 0, 3, 4, 1),
    (10, 5, 2, 0, 3, 4, 1),
    (14, 7, 2, 3, 3, 4, 1),
    (15, 7, 2, 3, 1, 4, 1),
    (8, 1, 1, 0, 3, 4, 1),
    (9, 1, 2, 0, 3, 4, 1),
    (8, 3, 1, 1, 4, 4, 4),
    (8, 3, 2, 1, 4, 4, 4),
    (9, 3, 2, 1, 4, 4, 4),
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float64, 1e-13), (jnp.float32, 1e-5)])
def test_equals_the_native_convolution_forward_and_backward(case, dtype, tolerance):
    size, window, stride, pad, channels_in, channels_out, groups = case
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, size, size, channels_in))
    kernel = rng.normal(size=(window, window, channels_in // groups, channels_out))
    arguments = ((stride, stride), ((pad, pad), (pad, pad)))

    def results(convolution, dtype):
        out, vjp = jax.vjp(
            lambda x, w: convolution(
                x,
                w,
                *arguments,
                feature_group_count=groups,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            ),
            jnp.asarray(images, dtype),
            jnp.asarray(kernel, dtype),
        )
        cotangent = np.random.default_rng(1).normal(size=out.shape)
        return out, *vjp(jnp.asarray(cotangent, dtype))

    with jax.enable_x64(True):
        expected = results(lax.conv_general_dilated, jnp.float64)
        found = results(conv_general_dilated, dtype)
    for want, got in zip(expected, found, strict=True):
        assert got.dtype == dtype
        assert np.abs(got - want).max() <= tolerance * np.abs(want).max()
