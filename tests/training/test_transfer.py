"""Fine-tuning: frozen weights stay, slower ones are slower, and the defaults change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cifar_jax import steps
from cifar_jax.models import create_model
from cifar_jax.runtime import parallel
from cifar_jax.steps import augment, optimizer
from cifar_jax.steps.state import create_state, init_variables
from cifar_jax.storage.checkpoint import Checkpoints
from configs import default

OPTIMIZERS = {
    "sgd": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "adam": {"name": "adam", "weight_decay": 0.1},
    "adamw": {"name": "adamw", "weight_decay": 0.1},
    "clipped": {"momentum": 0.9, "weight_decay": 0.1, "clip_norm": 0.5},
}


def optimizer_config(name):
    config = default.get_config().optimizer
    config.update(OPTIMIZERS[name])
    return config


def params():
    rng = np.random.default_rng(0)

    def dense():
        return {"kernel": jnp.float32(rng.normal(size=(4, 3))), "bias": jnp.ones(3)}

    return {"stem": dense(), "block": {"conv": dense()}, "head": dense()}


def gradients(count):
    rng = np.random.default_rng(1)
    return [
        jax.tree.map(lambda p: jnp.float32(rng.normal(size=p.shape)), params())
        for _ in range(count)
    ]


def trained(chain, tree, grads):
    state = chain.init(tree)
    for grad in grads:
        updates, state = chain.update(grad, state, tree)
        tree = optax.apply_updates(tree, updates)
    return tree


def backbone(tree):
    return {name: part for name, part in tree.items() if name != "head"}


def same(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def close(first, second):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), first, second)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_frozen_backbone_is_as_if_its_training_began_later(name):
    config = optimizer_config(name)
    grads = gradients(6)
    rate = lambda step: 0.1 / (1 + step)  # noqa: E731
    frozen = optimizer.create_optimizer(config, rate, frozen_steps=3)
    same(backbone(trained(frozen, params(), grads[:3])), backbone(params()))

    # In PyTorch, a frozen tensor has no gradient: only the head is trained for three steps.
    alone = optimizer.create_optimizer(config, rate)
    head = trained(alone, {"head": params()["head"]}, [{"head": g["head"]} for g in grads[:3]])
    close(trained(frozen, params(), grads[:3])["head"], head["head"])
    if config.clip_norm:
        return  # from there on, the clipped norm covers both
    late = optimizer.create_optimizer(config, lambda step: rate(step + 3))
    after = trained(frozen, params(), grads)
    close(backbone(after), trained(late, backbone(params()), [backbone(g) for g in grads[3:]]))
    close(after["head"], trained(alone, params(), grads)["head"])


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_slower_backbone_is_one_with_a_lower_learning_rate(name):
    config = optimizer_config(name)
    grads = gradients(4)
    both = optimizer.create_optimizer(config, lambda step: 0.1, backbone_factor=0.2)
    slow = optimizer.create_optimizer(config, lambda step: 0.02)
    fast = optimizer.create_optimizer(config, lambda step: 0.1)
    after = trained(both, params(), grads)
    close(backbone(after), backbone(trained(slow, params(), grads)))
    close(after["head"], trained(fast, params(), grads)["head"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_transfer_the_state_is_what_it_was(name):
    """The optimizer state keeps its leaves and their names, so checkpoints of older runs restore."""
    chain = optimizer.create_optimizer(optimizer_config(name), lambda step: 0.1, 1.0, 0)
    tree = {"head": {"bias": jnp.ones(3)}}
    leaves, _ = jax.tree_util.tree_flatten_with_path(chain.init(tree))
    found = {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}
    bias = "head/bias"
    assert (
        found
        == {
            "sgd": {f"1/trace/{bias}", "2/count"},
            "adam": {"1/count", f"1/mu/{bias}", f"1/nu/{bias}", "2/count"},
            "adamw": {"0/count", f"0/mu/{bias}", f"0/nu/{bias}", "2/count"},
            "clipped": {f"2/trace/{bias}", "3/count"},
        }[name]
    )


def test_frozen_batch_norm_trains_as_evaluation_computes(config):
    """The statistics stay, the loss equals that of evaluation, and scale and bias are trained."""
    config.model.name = "cnn"
    config.transfer.freeze_batch_norm = True
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 13, 13, 3), np.uint8)
    labels = np.arange(8, dtype=np.int32) % 3
    model = create_model("cnn", 3, axis_name=parallel.AXIS, batch_norm=True)
    chain = optimizer.create_optimizer(config.optimizer, lambda step: 0.1)
    task = steps.Task(model, chain, config, 3, (0.5,) * 3, (0.25,) * 3)
    variables = init_variables(model, 0, 13)
    # Statistics close to those of an image, so that no channel is cut off entirely.
    variables["batch_stats"] = jax.tree.map(
        lambda x: jnp.float32(x + rng.uniform(-0.2, 0.2, x.shape)), variables["batch_stats"]
    )
    state = create_state(variables, chain, ema=False)

    def step(state):
        data = (jnp.asarray(images), jnp.asarray(labels))
        inputs = augment.normalize(data[0], task.mean, task.std)
        logits = model.apply(variables, inputs, train=False)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, data[1]).mean()
        return steps.train_step(task, state, data, jnp.arange(8)), loss

    mapped = jax.jit(jax.vmap(step, axis_name=parallel.AXIS))
    states = jax.tree.map(lambda x: x[None], state)
    after, loss = jax.tree.map(lambda x: x[0], mapped(states))

    same(after.batch_stats, variables["batch_stats"])
    np.testing.assert_allclose(after.metrics.loss, loss, rtol=1e-5)
    for module, name in (("bn1", "scale"), ("bn1", "bias"), ("head", "kernel")):
        assert (after.params[module][name] != state.params[module][name]).any()


@pytest.mark.parametrize("saved_at", [1, 2])
def test_a_run_that_is_resumed_while_frozen_or_after_ends_with_the_same_bits(
    tmp_path, config, saved_at
):
    config.model.name, config.model.hidden_sizes = "mlp", (5,)
    config.optimizer.name = "adam"
    rng = np.random.default_rng(0)
    data = (rng.integers(0, 256, (32, 4, 4, 3), np.uint8), np.arange(32, dtype=np.int32) % 3)
    model = create_model("mlp", 3, hidden_sizes=(5,))
    chain = optimizer.create_optimizer(config.optimizer, lambda step: 0.1, 0.3, frozen_steps=2)
    task = steps.Task(model, chain, config, 3, (0.5,) * 3, (0.25,) * 3)
    start = create_state(init_variables(model, 0, 4), chain, ema=False)
    train_steps, placed = steps.train_steps(task), parallel.place(data)

    def train(state, count):
        state = parallel.replicate(jax.device_get(state))
        after, _ = train_steps(state, placed, np.uint32(0), np.int32(count))
        return parallel.unreplicate(after)

    half = train(start, saved_at)
    with Checkpoints(str(tmp_path)) as checkpoints:
        checkpoints.save(half, {"history": []}, None)
    with Checkpoints(str(tmp_path)) as checkpoints:
        restored, _ = checkpoints.restore(jax.eval_shape(lambda: start))
    same(train(restored, 4 - saved_at), train(start, 4))
    assert (half.params["dense1"]["kernel"] == start.params["dense1"]["kernel"]).all()
    assert (half.params["head"]["kernel"] != start.params["head"]["kernel"]).any()
