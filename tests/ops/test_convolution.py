"""Convolution, forward and backward, compared with XLA's, with the C++ kernels and without them.

The reference is XLA's result in float64.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cifar_jax.models import create_model, layers
from cifar_jax.ops import cpu_kernels
from cifar_jax.ops.convolution import conv_general_dilated

# height, width, window, stride, padding, channels in, channels out, groups
CASES = [
    (8, 8, 3, 1, 1, 3, 4, 1),
    (8, 9, 3, 2, 1, 3, 4, 1),
    (9, 8, 3, 2, 1, 3, 4, 1),
    (9, 9, 5, 1, 0, 3, 4, 1),
    (10, 7, 5, 2, 0, 3, 4, 1),
    (14, 14, 7, 2, 3, 3, 4, 1),
    (15, 12, 7, 2, 3, 1, 4, 1),
    (8, 8, 1, 1, 0, 3, 4, 1),
    (9, 8, 1, 2, 0, 3, 4, 1),
    (5, 4, 2, 3, 1, 3, 4, 1),
    (4, 5, 2, 1, 3, 3, 4, 1),
    (2, 1, 5, 1, 2, 3, 4, 1),
    (6, 5, 3, 1, 1, 9, 50, 1),
    # Enough channels for Winograd's algorithm; the sides are no multiples of its tiles.
    (7, 6, 3, 1, 1, 32, 64, 1),
    (8, 8, 3, 1, 0, 64, 32, 1),
    (5, 9, 3, 1, 2, 48, 32, 1),
    (3, 4, 3, 1, 3, 32, 80, 1),
    (1, 2, 3, 1, 1, 32, 32, 1),
    (8, 8, 3, 1, 1, 4, 4, 4),
    (8, 9, 3, 2, 1, 4, 4, 4),
    (9, 6, 3, 2, 1, 4, 4, 4),
    (5, 6, 5, 1, 2, 87, 87, 87),
]


def outcome(convolution, dtype, *arguments):
    """The output and both gradients for a random cotangent, as NumPy arrays."""
    return outcomes(convolution, dtype, [arguments])[0]


def outcomes(convolution, dtype, cases):
    """`outcome` for each of several (images, kernel, strides, padding, groups), in one program."""

    def convolve(strides, padding, groups, images, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        more = {"feature_group_count": groups, "dimension_numbers": layout}
        return convolution(images, kernel, strides, padding, **more)

    functions = [functools.partial(convolve, *rest) for _, _, *rest in cases]
    inputs = []
    for function, (images, kernel, *_) in zip(functions, cases, strict=True):
        shape = jax.eval_shape(function, images, kernel).shape
        cotangent = np.random.default_rng(1).normal(size=shape)
        inputs.append([jnp.asarray(x, dtype) for x in (images, kernel, cotangent)])

    @jax.jit
    def run(inputs):
        results = []
        for function, (images, kernel, cotangent) in zip(functions, inputs, strict=True):
            out, vjp = jax.vjp(function, images, kernel)
            results.append((out, *vjp(cotangent)))
        return results

    return jax.tree.map(np.asarray, run(inputs))


def worst(found, expected) -> float:
    """The largest error in the three arrays. Errors are relative to the largest value of their array."""
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_equals_the_native_convolution_forward_and_backward(case, monkeypatch):
    height, width, window, stride, pad, channels_in, channels_out, groups = case
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, height, width, channels_in))
    kernel = rng.normal(size=(window, window, channels_in // groups, channels_out))
    arguments = (images, kernel, (stride, stride), ((pad, pad), (pad, pad)), groups)
    with jax.enable_x64(True):
        expected = outcome(lax.conv_general_dilated, jnp.float64, *arguments)
        found = outcome(conv_general_dilated, jnp.float64, *arguments)
    assert worst(found, expected) <= 1e-13
    assert worst(outcome(conv_general_dilated, jnp.float32, *arguments), expected) <= 1e-6
    # Without the kernels, as on a machine without a compiler.
    monkeypatch.setattr(cpu_kernels, "available", lambda *arrays: False)
    assert worst(outcome(conv_general_dilated, jnp.float32, *arguments), expected) <= 1e-6


def convolutions_of(name: str, image_size: int = 32, **options) -> set[tuple]:
    """(height, width, channels, kernel, strides, padding, groups) of each convolution in a network."""
    calls = set()

    def record(call, args, kwargs, context):
        conv, out = context.module, call(*args, **kwargs)
        if isinstance(conv, layers.Conv):
            image, groups = args[0].shape[1:], conv.feature_group_count
            kernel = (*conv.kernel_size, image[-1] // groups, conv.features)
            strides = np.broadcast_to(conv.strides, 2).tolist()
            calls.add((*image, kernel, tuple(strides), ((conv.padding,) * 2,) * 2, groups))
        return out

    images = jnp.zeros((1, image_size, image_size, 3))
    model = create_model(name, 10, **options)
    with nn.intercept_methods(record):
        jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    return calls


def test_the_kernels_are_as_exact_as_xla_for_every_convolution_of_the_networks():
    calls = set().union(
        convolutions_of("lenet"),
        convolutions_of("cnn", downsample="stride"),
        convolutions_of("cnn", downsample="max_pool"),
        convolutions_of("resnet20_v2"),
        convolutions_of("resnet18", width=0.25),
        convolutions_of("mobilenet_v2", width=0.25),
    )
    assert len(calls) > 30
    rng = np.random.default_rng(0)
    calls = sorted(calls)
    cases = [
        (rng.normal(size=(2, *image)), rng.normal(size=kernel), strides, padding, groups)
        for *image, kernel, strides, padding, groups in calls
    ]
    with jax.enable_x64(True):
        expected = outcomes(lax.conv_general_dilated, jnp.float64, cases)
    found = outcomes(conv_general_dilated, jnp.float32, cases)
    for call, case, ours, wanted in zip(calls, cases, found, expected, strict=True):
        error = worst(ours, wanted)
        assert error <= 1e-5
        if error > 1e-6:
            native = worst(outcome(lax.conv_general_dilated, jnp.float32, *case), wanted)
            assert error <= 10 * native, call
