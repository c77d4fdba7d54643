"""Every optimizer equals PyTorch's, step by step, on the same gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_jax.steps import optimizer, schedules
from configs import default

torch = pytest.importorskip("torch")

LEARNING_RATE = 0.05
OPTIMIZERS = {
    "sgd": ({"momentum": 0.0, "nesterov": False}, torch.optim.SGD, {}),
    "momentum": ({"momentum": 0.9, "nesterov": False}, torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (
        {"momentum": 0.9, "nesterov": True},
        torch.optim.SGD,
        {"momentum": 0.9, "nesterov": True},
    ),
    "adam": (
        {"name": "adam", "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-3},
        torch.optim.Adam,
        {"betas": (0.8, 0.95), "eps": 1e-3},
    ),
    "adamw": ({"name": "adamw"}, torch.optim.AdamW, {"betas": (0.9, 0.999), "eps": 1e-8}),
}


def start():
    rng = np.random.default_rng(0)
    return {
        "kernel": rng.normal(size=(4, 3)).astype(np.float32),
        "bias": rng.normal(size=3).astype(np.float32),
    }


def loss(params, bowl):
    """A quadratic bowl, steep in some directions and flat in others."""
    return sum((bowl[name] * (params[name] - 1) ** 2).sum() for name in params)


@pytest.mark.parametrize("clip_norm", [0.0, 2.0])
@pytest.mark.parametrize(("weight_decay", "decay_all"), [(0.0, True), (0.1, True), (0.1, False)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_five_steps_equal_torch(name, weight_decay, decay_all, clip_norm):
    fields, torch_class, options = OPTIMIZERS[name]
    config = default.get_config().optimizer
    config.weight_decay = weight_decay
    config.decay_bias_and_norm = decay_all
    config.clip_norm = clip_norm
    config.update(fields)
    bowl = {
        "kernel": np.linspace(0.1, 3, 12, dtype=np.float32).reshape(4, 3),
        "bias": np.float32(2),
    }

    ours = jax.tree.map(jnp.asarray, start())
    chain = optimizer.create_optimizer(config, lambda step: LEARNING_RATE)
    state = chain.init(ours)

    theirs = {key: torch.nn.Parameter(torch.tensor(value)) for key, value in start().items()}
    groups = [
        {"params": [theirs["kernel"]], "weight_decay": weight_decay},
        {"params": [theirs["bias"]], "weight_decay": weight_decay if decay_all else 0.0},
    ]
    torch_optimizer = torch_class(groups, lr=LEARNING_RATE, **options)
    torch_bowl = {key: torch.tensor(value) for key, value in bowl.items()}

    for _ in range(5):
        gradient = jax.grad(loss)(ours, bowl)
        updates, state = chain.update(gradient, state, ours)
        ours = jax.tree.map(jnp.add, ours, updates)

        torch_optimizer.zero_grad()
        loss(theirs, torch_bowl).backward()
        if clip_norm:
            norm = torch.nn.utils.clip_grad_norm_(theirs.values(), clip_norm)
            # small enough to clip
            assert norm > clip_norm
        torch_optimizer.step()
        for key in ours:
            np.testing.assert_allclose(
                ours[key], theirs[key].detach().numpy(), rtol=2e-5, atol=2e-6
            )


def test_a_gradient_within_the_limit_is_left_alone():
    config = default.get_config().optimizer
    config.momentum, config.weight_decay, config.clip_norm = 0.0, 0.0, 5.001
    chain = optimizer.create_optimizer(config, lambda step: 1.0)
    gradient = {"a": jnp.array([3.0]), "b": jnp.array([[4.0]])}  # global norm 5
    updates, _ = chain.update(gradient, chain.init(gradient), gradient)
    np.testing.assert_array_equal(updates["a"], [-3.0])
    np.testing.assert_array_equal(updates["b"], [[-4.0]])


def test_the_bias_of_the_whitening_layer_is_trained_as_airbench94_muon_trains_it():
    """Its own linear schedule to zero, then no gradient any more; the other bias has the whole run's."""
    per_epoch, epochs, own_epochs = 4, 3, 1.5
    config = default.get_config()
    config.optimizer.update({"momentum": 0.85, "nesterov": True, "weight_decay": 0.01})
    config.lr_schedule.update({"name": "linear", "learning_rate": LEARNING_RATE})
    schedule = schedules.learning_rate_schedule(config.lr_schedule, epochs, per_epoch)
    own = schedules.ended_after(config.lr_schedule, own_epochs, per_epoch)
    chain = optimizer.create_optimizer(config.optimizer, schedule, whitening_schedule=own)
    ours = {"whitening": {"bias": jnp.float32([1, -2])}, "norm": {"bias": jnp.float32([3, 0.5])}}
    state = chain.init(ours)

    names = ("whitening", "norm")
    theirs = [torch.nn.Parameter(torch.tensor(ours[name]["bias"].tolist())) for name in names]
    groups = [{"params": [parameter], "lr": LEARNING_RATE} for parameter in theirs]
    options = {"momentum": 0.85, "nesterov": True, "weight_decay": 0.01}
    torch_optimizer = torch.optim.SGD(groups, **options)
    seen = []
    for step in range(per_epoch * epochs):
        gradient = jax.tree.map(lambda x: jnp.sin(x + 1), ours)
        updates, state = chain.update(gradient, state, ours)
        ours = jax.tree.map(jnp.add, ours, updates)

        trains = step < per_epoch * own_epochs
        for parameter, is_trained in zip(theirs, (trains, True), strict=True):
            parameter.grad = torch.sin(parameter.detach() + 1) if is_trained else None
        torch_optimizer.param_groups[0]["lr"] = LEARNING_RATE * (
            1 - step / (per_epoch * own_epochs)
        )
        torch_optimizer.param_groups[1]["lr"] = LEARNING_RATE * (1 - step / (per_epoch * epochs))
        torch_optimizer.step()
        for name, parameter in zip(names, theirs, strict=True):
            np.testing.assert_allclose(ours[name]["bias"], parameter.detach(), rtol=1e-5)
        seen.append(np.asarray(ours["whitening"]["bias"]))
    assert np.abs(seen[5] - seen[0]).max() > 0.01
    for later in seen[6:]:
        np.testing.assert_array_equal(later, seen[5])
