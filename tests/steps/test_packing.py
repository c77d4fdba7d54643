"""A packed state holds everything, and unpacking gives it back bit by bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_jax import steps
from cifar_jax.data.datasets import Dataset, Split
from cifar_jax.ops import cpu_kernels
from cifar_jax.runtime import parallel
from cifar_jax.steps.packing import MOST_VECTORS, packing
from cifar_jax.training.run import create_run, first_state, state_shapes


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
    assert [array.shape for array in vectors] == [(5 + 3,)]
    assert len(others) == 5
    assert_same(jax.device_get(unpack((vectors, others))), jax.device_get(state()))


def test_a_state_of_the_same_kind_with_other_values():
    pack, unpack = packing(jax.eval_shape(state))
    other = jax.tree.map(lambda leaf: leaf * 3, state())
    assert_same(jax.device_get(unpack(pack(other))), jax.device_get(other))


def test_many_vectors_are_several_arrays():
    many = [jnp.full(1 + i % 3, i, jnp.float32) for i in range(2 * MOST_VECTORS + 1)]
    pack, unpack = packing(many)
    vectors, others = pack(many)
    assert (len(vectors), others) == (3, [])
    assert_same(jax.device_get(unpack((vectors, others))), jax.device_get(many))


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


def created(config):
    """A run on 16 images of 8x8 pixels, and its first state."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, 8, 8, 3), np.uint8)
    split = Split(images, np.arange(16, dtype=np.int32) % 2)
    config.dataset.image_size = 8
    data = Dataset("", split, split, None, ("a", "b"), (0.5,) * 3, (0.5,) * 3)
    run = create_run(config, "", data)
    return run, first_state(run)


def arguments(run, state, count):
    """The arguments of the compiled steps of a run."""
    train = run.dataset.train
    data = parallel.place((train.images, train.labels))
    return parallel.replicate(state), data, np.uint32(0), np.int32(count)


@pytest.fixture
def elsewhere(monkeypatch):
    """As where there is a GPU."""
    monkeypatch.setattr(cpu_kernels, "on_cpu", lambda: False)


def test_on_a_gpu_the_loop_over_the_steps_carries_one_vector(config, elsewhere):
    config.model.name, config.model.width = "resnet8_v2", 0.125
    run, state = created(config)
    traced = jax.make_jaxpr(steps.train_steps(run.task))(*arguments(run, state, 1))
    loops = [e for e in equations(traced.jaxpr) if e.primitive.name == "while"]
    assert len(loops) == 2  # over epochs, over steps
    carried = [variable.aval for variable in loops[1].outvars]
    vectors = [a for a in carried if a.ndim == 1 and a.dtype == jnp.float32]
    assert len(vectors) == 1
    leaves = jax.tree.leaves(state_shapes(run))
    assert vectors[0].size == sum(leaf.size for leaf in leaves if leaf.ndim == 1) > 100


def test_on_a_gpu_kernels_are_cast_where_they_are_updated(config, elsewhere):
    config.model.name, config.model.hidden_sizes = "mlp", (9,)
    config.model.dtype = "bfloat16"
    run, state = created(config)
    traced = jax.make_jaxpr(steps.train_steps(run.task))(*arguments(run, state, 1))
    _, loop = [e for e in equations(traced.jaxpr) if e.primitive.name == "while"]
    kernels = {leaf.shape for leaf in jax.tree.leaves(state_shapes(run).params) if leaf.ndim > 1}
    cast = [
        equation.outvars[0].aval.shape
        for equation in equations(loop.params["body_jaxpr"].jaxpr)
        if equation.primitive.name == "convert_element_type"
        and equation.outvars[0].aval.dtype == jnp.bfloat16
        and equation.outvars[0].aval.shape in kernels
    ]
    assert sorted(cast) == sorted(kernels)  # each once
    carried = [v.aval for v in loop.outvars if v.aval.dtype == jnp.bfloat16]
    assert {aval.shape for aval in carried} == kernels


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packed_steps_are_the_same_to_rounding(config, dtype, monkeypatch):
    config.model.name, config.model.hidden_sizes, config.model.dropout = "mlp", (9,), 0.2
    config.model.dtype, config.ema_decay = dtype, 0.9
    run, state = created(config)
    ends = []
    for on_cpu in (True, False):  # the code of this network is the same everywhere
        monkeypatch.setattr(cpu_kernels, "on_cpu", lambda on_cpu=on_cpu: on_cpu)
        after, _ = steps.train_steps(run.task)(*arguments(run, state, 5))
        ends.append(parallel.unreplicate(after))
    assert int(ends[0].step) == 5
    assert jax.tree.structure(ends[1]) == jax.tree.structure(ends[0])
    for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
