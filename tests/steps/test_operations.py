"""A training step has no more of the costly operations on a GPU than its network needs. No GPU is used."""

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_jax import models, steps
from cifar_jax.data.datasets import Dataset, Split
from cifar_jax.ops import cpu_kernels, normalization
from cifar_jax.runtime import parallel
from cifar_jax.training.run import create_run, state_shapes
from configs import resnet18, resnet20_v2, speedrun94

SIDE, BATCH = 32, 8
# Mean over the pixels, its gradient's and the loss's sums, maximum and sum of softmax, accuracy, checks.
OTHER_REDUCTIONS = 11


def operations(config) -> collections.Counter:
    """How often each StableHLO operation stands in a step of a recipe, as it is compiled for a GPU."""
    config.batch_size = BATCH
    images, labels = np.zeros((BATCH, SIDE, SIDE, 3), np.uint8), np.zeros(BATCH, np.int32)
    split, names = Split(images, labels), tuple("abcdefghij")
    dataset = Dataset("cifar10", split, split, None, names, (0.5,) * 3, (0.25,) * 3)
    run = create_run(config, "", dataset)

    def step(state):
        data = (jnp.asarray(images), jnp.asarray(labels))
        return steps.train_step(run.task, state, data, jnp.arange(BATCH))

    states = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), state_shapes(run))
    with cpu_kernels.portable():
        traced = jax.jit(jax.vmap(step, axis_name=parallel.AXIS)).trace(states)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    return collections.Counter(re.findall(r"\bstablehlo\.(\w+)", text))


def resnet8():
    config = resnet20_v2.get_config()
    config.model.name = "resnet8_v2"
    return config


def resnet18_with_overlapping_pooling():
    config = resnet18.get_config()
    config.model.stem = "imagenet"
    return config


@pytest.mark.parametrize(
    ("recipe", "convolutions", "untrained", "norms"),
    [
        # The stem, two in each of three blocks, two shortcuts; a norm before each of a block's and one last.
        (resnet8, 9, 0, 7),
        # Here of two stages with a block each: the stem, four and a shortcut, each with its norm.
        (resnet18_with_overlapping_pooling, 6, 0, 6),
        # Six, and the whitening, whose kernel is not trained.
        (speedrun94.get_config, 6, 1, 6),
    ],
)
def test_a_step_has_no_more_operations_than_it_needs(
    recipe, convolutions, untrained, norms, monkeypatch
):
    shallow = functools.partial(models.MODELS["resnet18"], stage_sizes=(1, 1))
    monkeypatch.setitem(models.MODELS, "resnet18", shallow)
    config = recipe()
    config.model.dtype = "bfloat16"
    found = operations(config)
    # Each is computed once and differentiated twice. The first has no gradient for the images.
    first = 0 if untrained else 1
    assert found["convolution"] == 3 * convolutions - first + untrained
    # Both sums of batch norm are one reduction in two stages, forward and backward.
    if config.optimizer.name == "sgd":
        assert found["reduce"] <= 4 * norms + OTHER_REDUCTIONS
    # The gradient of max pooling is made by comparing.
    assert found["select_and_scatter"] == 0


def test_kernels_are_orthogonalised_together():
    found = operations(speedrun94.get_config())
    # Three iterations of three products; the head and its two gradients.
    assert found["dot_general"] == 3 * 3 + 3


@pytest.mark.parametrize(
    # XLA would make about 91, 362 and 1386 groups, and store what the sums of the gradient compare.
    ("values", "groups"),
    [(8 * 32 * 32, 128), (128 * 32 * 32, 512), (2000 * 31 * 31, 2480), (7919, 1)],
)
def test_batch_norm_sums_more_groups_than_xla_would(values, groups):
    with cpu_kernels.portable():
        x, shift = jax.ShapeDtypeStruct((values, 4), jnp.float32), jnp.zeros(4)
        traced = jax.make_jaxpr(normalization.moments)(x, shift)
    text = str(traced)
    assert text.count("reduce[") == 2
    assert f"f32[{groups},{values // groups},4]" in text


@pytest.mark.parametrize(
    ("low", "high", "bounds"), [(-np.inf, np.inf, 0), (0, np.inf, 1), (0, 6, 2)]
)
def test_the_gradient_of_a_norm_compares_with_its_bounds_alone(low, high, bounds):
    def gradients(x, grad, *channel):
        _, backward = jax.vjp(lambda *args: normalization.normalize(*args, low, high), x, *channel)
        return backward(grad)

    x, channel = jnp.zeros((BATCH, 4)), jnp.zeros(4)
    with cpu_kernels.portable():
        text = jax.jit(gradients).lower(x, x, channel, channel, channel).as_text()
    # Once for the sums and once for the images. XLA would store a mask that serves both.
    assert text.count("stablehlo.compare") == 2 * bounds
    assert len(set(re.findall(r"stablehlo.compare +(\w+)", text))) == 2 * bounds
