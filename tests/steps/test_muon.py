"""Muon, with SGD for the rest, equals NumPy in float64 with the learning rates of airbench94_muon.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_jax.ops import cpu_kernels
from cifar_jax.steps import muon, optimizer
from configs import default

RATE, BIAS_RATE, HEAD_RATE = 0.24, 5.0, 0.02
MOMENTUM, MUON_MOMENTUM, DECAY = 0.85, 0.6, 0.01
STEPS = 4
SHAPES = {
    # Two kernels of one shape, and one whose matrix is tall instead of wide.
    "conv1": {"kernel": (3, 3, 2, 4)},
    "conv2": {"kernel": (3, 3, 2, 4)},
    "conv3": {"kernel": (1, 1, 3, 8)},
    "bn1": {"bias": (4,)},
    "head": {"kernel": (8, 5)},
}


def draw(rng):
    return {
        module: {name: rng.normal(size=shape) for name, shape in leaves.items()}
        for module, leaves in SHAPES.items()
    }


def rate(step):
    return 1 - step / 10


def orthogonal(gradient, iterations):
    """The kernel as a matrix [out, everything else], as PyTorch has it."""
    matrix = gradient.transpose(3, 2, 0, 1).reshape(gradient.shape[3], -1)
    x = matrix / (np.linalg.norm(matrix) + 1e-7)
    turned = x.shape[0] > x.shape[1]
    x = x.T if turned else x
    for _ in range(iterations):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    x = x.T if turned else x
    height, width, inputs, outputs = gradient.shape
    return x.reshape(outputs, inputs, height, width).transpose(2, 3, 1, 0)


def published_steps(params, gradients):
    """Each group has its own learning rate, and a weight decay divided by that rate."""
    buffers = {}
    for step, gradient in enumerate(gradients):
        for module, leaves in gradient.items():
            for name, g in leaves.items():
                p = params[module][name]
                is_kernel = p.ndim == 4
                own = HEAD_RATE if module == "head" else BIAS_RATE
                g = g if is_kernel else g + DECAY / own * p
                momentum = MUON_MOMENTUM if is_kernel else MOMENTUM
                buffer = momentum * buffers.get((module, name), 0) + g
                buffers[module, name] = buffer
                g = g + momentum * buffer
                if is_kernel:
                    p = p * p.shape[-1] ** 0.5 / np.linalg.norm(p)
                    p = p - RATE * rate(step) * orthogonal(g, 3)
                else:
                    p = p - own * rate(step) * g
                params[module] = params[module] | {name: p}
    return params


def create(frozen_steps=0):
    config = default.get_config().optimizer
    config.name = "muon"
    config.momentum, config.muon_momentum = MOMENTUM, MUON_MOMENTUM
    config.newton_schulz_steps = 3
    config.bias_lr_factor, config.head_lr_factor = BIAS_RATE / RATE, HEAD_RATE / RATE
    config.weight_decay = DECAY / RATE
    return optimizer.create_optimizer(
        config, lambda step: RATE * rate(step), frozen_steps=frozen_steps
    )


@pytest.mark.parametrize("together", ["equal shapes", "all, as on a GPU"])
def test_several_steps_equal_the_published_ones(together, monkeypatch):
    if together != "equal shapes":
        monkeypatch.setattr(cpu_kernels, "on_cpu", lambda: False)
    rng = np.random.default_rng(0)
    first = draw(rng)
    gradients = [draw(rng) for _ in range(STEPS)]
    chain = create()
    ours = jax.tree.map(jnp.float32, first)
    state = chain.init(ours)
    update = jax.jit(chain.update)
    for gradient in gradients:
        updates, state = update(jax.tree.map(jnp.float32, gradient), state, ours)
        ours = jax.tree.map(jnp.add, ours, updates)
    theirs = published_steps(first, gradients)
    for module, leaves in theirs.items():
        for name, expected in leaves.items():
            np.testing.assert_allclose(ours[module][name], expected, rtol=2e-4, atol=2e-5)


def test_a_frozen_backbone_keeps_its_kernels():
    params = jax.tree.map(jnp.float32, draw(np.random.default_rng(0)))
    chain = create(frozen_steps=1)
    state = chain.init(params)
    updates, state = chain.update(params, state, params)
    moved = {module for module in updates if any(np.any(x) for x in updates[module].values())}
    assert moved == {"head"}
    updates, _ = chain.update(params, state, params)
    assert all(np.any(x) for x in jax.tree.leaves(updates))


@pytest.mark.parametrize("shape", [(2, 5, 9), (1, 9, 5)])
def test_singular_values_end_near_one_and_vectors_are_kept(shape):
    matrices = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = np.asarray(muon.newton_schulz(jnp.asarray(matrices), 5, "float32"))
    for matrix, result in zip(matrices, found, strict=True):
        left, _, right = np.linalg.svd(matrix, full_matrices=False)
        values = left.T @ result @ right.T
        assert np.abs(values - np.diag(np.diag(values))).max() < 1e-4
        assert np.diag(values).min() > 0.6
        assert np.diag(values).max() < 1.3


def test_a_head_of_convolutions_is_trained_as_a_dense_one():
    rng = np.random.default_rng(0)
    kernel, *gradients = (jnp.float32(rng.normal(size=(4, 5))) for _ in range(3))
    found = []
    for shape in ((4, 5), (1, 1, 4, 5)):
        params = {"head": {"score": {"kernel": kernel.reshape(shape)}}}
        chain = create()
        state = chain.init(params)
        for gradient in gradients:
            tree = jax.tree.map(lambda p, g=gradient: g.reshape(p.shape), params)
            updates, state = chain.update(tree, state, params)
            params = jax.tree.map(jnp.add, params, updates)
        found.append(np.asarray(params["head"]["score"]["kernel"]).reshape(4, 5))
    np.testing.assert_array_equal(*found)
