"""The layers, checked against formulas and invariants.

test_torch_twins.py compares padding, pooling and activations with PyTorch's, within whole networks.
tests/ops/ tests convolution and pooling.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_jax.errors import UserError
from cifar_jax.models import layers
from cifar_jax.ops import cpu_kernels

# --- Batch norm ---------------------------------------------------------------------------------


def batch_norm_float64(x, scale, bias, mean, var):
    """Ioffe and Szegedy's formula in float64. Returns the output and the new running mean and variance."""
    x = np.asarray(x, np.float64)
    axes = tuple(range(x.ndim - 1))
    y = (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5) * scale + bias
    new_var = x.var(axes, ddof=1)
    return y, 0.9 * mean + 0.1 * x.mean(axes), 0.9 * var + 0.1 * new_var


def random_batch_norm(channels, rng):
    params = {"scale": rng.uniform(0.5, 2, channels), "bias": rng.normal(size=channels)}
    stats = {"mean": rng.normal(size=channels), "var": rng.uniform(0.5, 2, channels)}
    return jax.tree.map(np.float32, (params, stats))


def train(module, params, stats, x):
    return module.apply(
        {"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"]
    )


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 2, 3)])
def test_batch_norm_is_the_formula_with_the_unbiased_running_variance(shape):
    rng = np.random.default_rng(0)
    params, stats = random_batch_norm(3, rng)
    x = np.float32(rng.normal(size=shape) * 3 + 7)
    y, updated = train(layers.BatchNorm(), params, stats, x)
    expected = batch_norm_float64(x, **params, **stats)
    found = (y, updated["batch_stats"]["mean"], updated["batch_stats"]["var"])
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-5)
    # Evaluation uses the running statistics and does not change them.
    y = layers.BatchNorm().apply({"params": params, "batch_stats": stats}, x, train=False)
    want = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)


def test_batch_norm_does_not_cancel_once_the_running_mean_is_near():
    x = np.float32(np.random.default_rng(0).normal(1000.0, 1.0, size=(4096, 2)))
    module = layers.BatchNorm()
    variables = module.init(jax.random.key(0), x, train=False)
    params, stats = variables["params"], variables["batch_stats"]
    step = jax.jit(functools.partial(train, module))
    for _ in range(60):
        y, updated = step(params, stats, x)
        stats = updated["batch_stats"]
    # After 60 steps the running mean is still too low by 1000 * 0.9^60 = 1.8. That is close enough.
    expected = batch_norm_float64(x, 1.0, 0.0, 0.0, 1.0)[0]
    np.testing.assert_allclose(y, expected, atol=1e-3)
    np.testing.assert_allclose(y.std(0), 1.0, atol=1e-4)


def test_batch_norm_of_the_first_step_is_exact_for_a_mean_of_ten_deviations():
    x = np.float32(np.random.default_rng(0).normal(10.0, 1.0, size=(4096, 2)))
    module = layers.BatchNorm()
    variables = module.init(jax.random.key(0), x, train=False)
    y, _ = train(module, variables["params"], variables["batch_stats"], x)
    np.testing.assert_allclose(y, batch_norm_float64(x, 1.0, 0.0, 0.0, 1.0)[0], atol=1e-4)


def test_batch_norm_refuses_a_single_value_per_channel():
    with pytest.raises(UserError, match="batch_size"):
        train(layers.BatchNorm(), *random_batch_norm(3, np.random.default_rng(0)), np.ones((1, 3)))


def test_batch_norm_without_an_axis_is_that_of_each_device_alone():
    rng = np.random.default_rng(0)
    params, stats = random_batch_norm(3, rng)
    x = np.float32(rng.normal(size=(2, 4, 3)))
    y, _ = jax.vmap(functools.partial(train, layers.BatchNorm(), params, stats), axis_name="batch")(
        x
    )
    for device in range(2):
        expected = batch_norm_float64(x[device], **params, **stats)[0]
        np.testing.assert_allclose(y[device], expected, rtol=1e-4, atol=1e-5)


# --- Activations --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gelu_on_a_gpu_is_the_formula_and_keeps_its_input_alone(dtype):
    x = jnp.linspace(-6.0, 6.0, 97, dtype=dtype)
    with cpu_kernels.portable():
        y, backward = jax.vjp(layers.ACTIVATIONS["gelu"], x)
    values = np.asarray(x, np.float64)
    distribution = np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in values])
    density = np.exp(-0.5 * values**2) / math.sqrt(2 * math.pi)
    rounding = 3 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(y, values * distribution, rtol=0, atol=6 * rounding)
    (grad,) = backward(jnp.ones_like(x))
    assert grad.dtype == dtype
    np.testing.assert_allclose(grad, distribution + values * density, rtol=0, atol=rounding)
    assert [kept.shape for kept in jax.tree.leaves(backward)] == [x.shape]


# --- Dropout ------------------------------------------------------------------------------------


def drop(module, x, seed=0):
    return module.apply({}, x, train=True, rngs={"dropout": jax.random.key(seed)})


@pytest.mark.parametrize("kind", [layers.Dropout, layers.AlphaDropout])
def test_devices_share_the_key_and_draw_what_one_device_draws(kind):
    x = np.float32(np.random.default_rng(0).normal(size=(8, 6, 5)))
    draw = jax.jit(functools.partial(drop, kind(0.5)))
    alone = np.asarray(draw(x))
    mapped = jax.jit(
        jax.vmap(functools.partial(drop, kind(0.5, axis_name="batch")), axis_name="batch")
    )
    for devices in (2, 8):
        found = mapped(x.reshape(devices, 8 // devices, 6, 5))
        np.testing.assert_array_equal(found.reshape(8, 6, 5), alone)
    # Each example has a mask of its own, and another key gives other masks.
    ones = np.asarray(draw(np.ones_like(x)))
    assert len(np.unique(ones.reshape(8, -1), axis=0)) == 8
    assert np.any(ones != draw(np.ones_like(x), 1))


def test_dropout_keeps_the_mean_and_sets_the_share_to_zero():
    y = np.asarray(drop(layers.Dropout(0.2), jnp.full((50, 2000), 3.0)))
    np.testing.assert_allclose(np.unique(y), [0.0, 3.0 / 0.8], rtol=1e-6)
    # 100,000 draws: the standard deviation of the share of zeros is 0.4 / 316 = 0.0013.
    assert abs(np.mean(y == 0) - 0.2) < 0.006


def test_alpha_dropout_keeps_mean_zero_and_variance_one():
    x = jax.random.normal(jax.random.key(0), (50, 2000))
    y = np.asarray(drop(layers.AlphaDropout(0.3), x), np.float64)
    assert abs(y.mean()) < 0.02
    assert abs(y.var() - 1) < 0.02
