"""A packed state holds everything, and unpacking gives it back bit by bit."""

import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax import steps
from cifar_jax.data.datasets import Dataset, Split
from cifar_jax.steps.packing import packing
from cifar_jax.training.run import create_run, state_shapes


def state():
    rng = np.random.default_rng(0)
    return {
        "step": jnp.int32(7),
        "kernel": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=5), jnp.float32),
        "places": jnp.arange(4),
        "mean": jnp.asarray([np.nan, -0.0, np.inf], jnp.float32),
        "half": jnp.ones(2, jnp.bfloat16),
        "loss": jnp.float32(0.5),
        "nothing": {},
    }


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def test_unpacking_gives_back_what_was_packed():
    pack, unpack = packing(state())
    vectors, others = pack(state())
    assert vectors.shape == (5 + 3,)
    assert len(others) == 5
    assert_same(jax.device_get(unpack((vectors, others))), jax.device_get(state()))


def test_a_state_of_the_same_kind_with_other_values():
    pack, unpack = packing(jax.eval_shape(state))
    other = jax.tree.map(lambda leaf: leaf * 3, state())
    assert_same(jax.device_get(unpack(pack(other))), jax.device_get(other))


def test_a_state_without_vectors():
    kernel = {"kernel": jnp.ones((2, 2))}
    pack, unpack = packing(kernel)
    assert_same(jax.device_get(unpack(pack(kernel))), jax.device_get(kernel))


def equations(jaxpr):
    """All equations of a traced function, also those of the functions that it calls."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(tuple(equation.params.values()), is_leaf=is_jaxpr):
            if is_jaxpr(value):
                yield from equations(getattr(value, "jaxpr", value))


def is_jaxpr(value) -> bool:
    return hasattr(value, "eqns")


def test_the_loop_over_the_steps_carries_one_vector(config):
    config.model.name, config.model.width = "resnet8_v2", 0.125
    split = Split(np.zeros((16, 8, 8, 3), np.uint8), np.zeros(16, np.int32))
    config.dataset.image_size = 8
    data = Dataset("", split, split, None, ("a", "b"), (0.5,) * 3, (0.5,) * 3)
    run = create_run(config, "", data)
    stack = lambda tree: jax.tree.map(lambda x: x[None], tree)  # noqa: E731
    arguments = (stack(state_shapes_as_zeros(run)), (split.images, split.labels), np.int32(1))
    traced = jax.make_jaxpr(steps.train_steps(run.task))(*arguments)
    loops = [e for e in equations(traced.jaxpr) if e.primitive.name == "while"]
    assert len(loops) == 2  # over epochs, over steps
    carried = [variable.aval for variable in loops[1].outvars]
    vectors = [a for a in carried if a.ndim == 1 and a.dtype == jnp.float32]
    assert len(vectors) == 1
    leaves = jax.tree.leaves(state_shapes(run))
    assert vectors[0].size == sum(leaf.size for leaf in leaves if leaf.ndim == 1) > 100


def state_shapes_as_zeros(run):
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state_shapes(run))
