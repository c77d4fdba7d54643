"""Initial weights: those of JAX's own initialisers, drawn in one pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cifar_jax.models import create_model, layers
from cifar_jax.steps import init_variables
from tests.helpers import runs

scaled = nn.initializers.variance_scaling
# Ours and Flax's.
SAME = [
    (layers.he_normal, scaled(2.0, "fan_in", "normal")),
    (layers.he_normal_fan_out, scaled(2.0, "fan_out", "normal")),
    (layers.lecun_normal, scaled(1.0, "fan_in", "normal")),
    (layers.normal(0.01), nn.initializers.normal(0.01)),
    (layers.torch_uniform, scaled(1 / 3, "fan_in", "uniform")),
    (
        layers.uniform_bias(7),
        lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -(7**-0.5), 7**-0.5),
    ),
]
# More and fewer numbers than one row of draws, and exactly one.
SHAPES = [(3, 3, 16, 40), (5, 2), (4, 256)]

# With the flags that make tests fast, a formula is rounded differently in another loop; with XLA's own it
# is not.
options = {"xla_cpu_use_fusion_emitters": True} if runs.HAS_FUSION_EMITTERS_FLAG else {}
jit = functools.partial(jax.jit, compiler_options=options)


def drawn(initializers):
    """The arrays of all shapes from each initialiser, as a function of a key."""

    def draw(key):
        arrays = []
        for init in initializers:
            for shape in SHAPES:
                arrays.append(init(jax.random.fold_in(key, len(arrays)), shape))
        return arrays

    return draw


def test_the_numbers_are_those_of_jax():
    ours, theirs = (drawn(initializers) for initializers in zip(*SAME, strict=True))
    key = jax.random.key(3)
    expected = jit(theirs)(key)
    jax.tree.map(np.testing.assert_array_equal, jit(ours)(key), expected)
    together = functools.partial(layers.drawn_together, ours)
    jax.tree.map(np.testing.assert_array_equal, jit(together)(key), expected)


@pytest.mark.parametrize(
    ("name", "fields"), [("resnet8_v2", {"remat": True}), ("airbench94", {"width": 0.25})]
)
def test_a_network_starts_the_same_drawn_in_one_pass(name, fields):
    model = create_model(name, 10, **fields)

    def alone(seed):
        key = jax.random.fold_in(jax.random.key(seed), 0)
        return model.init(key, jnp.zeros((1, 16, 16, 3)))

    together = jit(lambda seed: init_variables(model, seed, 16))(np.uint32(3))
    jax.tree.map(np.testing.assert_array_equal, together, jit(alone)(np.uint32(3)))


def test_one_loop_draws_for_every_kernel_of_a_network():
    model = create_model("resnet20_v2", 10)
    program = str(jax.make_jaxpr(lambda seed: init_variables(model, seed, 32))(np.uint32(0)))
    # One for the kernels of convolutions, which are normal, and one for the uniform weights of the head.
    assert program.count("threefry2x32[") + program.count("threefry2x32 ") == 2
    assert "random_bits" not in program


def test_a_weight_that_is_changed_before_it_is_drawn_is_noticed():
    with pytest.raises(AssertionError, match="changed before it was drawn"):
        layers.drawn_together(lambda: 2 * layers.he_normal(jax.random.key(0), (2, 3)))
