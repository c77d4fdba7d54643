"""Schedules at points computed by hand, and which parameters decay."""

import jax.numpy as jnp
import numpy as np
import pytest

from cifar_jax.errors import UserError
from cifar_jax.steps import optimizer, schedules
from configs import default

EPOCHS, PER_EPOCH = 10, 6


def schedule(name, epochs=EPOCHS, per_epoch=PER_EPOCH, **fields):
    config = default.get_config().lr_schedule
    config.name = name
    config.learning_rate = 0.8
    config.update(fields)
    return schedules.learning_rate_schedule(config, epochs, per_epoch)


def check(rate, points):
    for step, expected in points.items():
        assert float(rate(step)) == pytest.approx(expected, rel=1e-6, abs=1e-8), step
        # In a training step, the step is an array on the device.
        assert float(rate(jnp.int32(step))) == pytest.approx(expected, rel=1e-6, abs=1e-8), step


def test_step_drops_at_the_first_step_of_a_boundary_epoch():
    # Epochs 4 and 7, counted from 0, start at steps 24 and 42.
    rate = schedule("step", boundaries=(4, 7), factor=0.1)
    check(rate, {0: 0.8, 23: 0.8, 24: 0.08, 41: 0.08, 42: 0.008, 59: 0.008})


def test_step_boundaries_count_from_the_start_of_the_run_with_a_warm_up_too():
    rate = schedule("step", boundaries=(4, 7), factor=0.5, warmup_epochs=2)
    # The warm-up rises from 0 over 12 steps.
    check(rate, {0: 0, 3: 0.2, 6: 0.4, 12: 0.8, 23: 0.8, 24: 0.4, 41: 0.4, 42: 0.2})


def test_boundaries_within_an_epoch_and_several_in_one_step():
    check(schedule("step", boundaries=(0.5,), factor=0.1), {2: 0.8, 3: 0.08})
    rate = schedule("step", per_epoch=1, boundaries=(1.9, 2.1), factor=0.1)
    check(rate, {1: 0.8, 2: 0.008})


def test_a_boundary_beyond_every_step_that_is_counted_is_never_reached():
    check(schedule("step", boundaries=(4, 1e30), factor=0.1), {0: 0.8, 24: 0.08, 2**31 - 1: 0.08})


def test_a_schedule_that_ends_after_every_step_that_is_counted():
    config = default.get_config().lr_schedule
    config.update({"name": "constant", "learning_rate": 0.8})
    rate = schedules.ended_after(config, epochs=1e9, steps_per_epoch=PER_EPOCH)
    check(rate, {0: 0.8, 2**31 - 2: 0.8})


def test_constant_with_and_without_warm_up():
    check(schedule("constant"), {0: 0.8, 59: 0.8, 1000: 0.8})
    check(schedule("constant", warmup_epochs=0.5), {0: 0, 1: 0.8 / 3, 2: 1.6 / 3, 3: 0.8, 59: 0.8})


def test_cosine_is_halfway_in_the_middle_and_ends_at_its_share():
    check(schedule("cosine"), {0: 0.8, 30: 0.4, 60: 0})
    rate = schedule("cosine", warmup_epochs=2, final_fraction=0.1)
    # 48 steps remain after the warm-up; after a third of them the cosine is at (1 + cos 60°) / 2.
    check(rate, {0: 0, 6: 0.4, 12: 0.8, 28: 0.08 + 0.72 * 0.75, 36: 0.44, 60: 0.08, 70: 0.08})


def test_linear_falls_evenly():
    check(schedule("linear"), {0: 0.8, 15: 0.6, 30: 0.4, 60: 0})
    rate = schedule("linear", warmup_epochs=5, final_fraction=0.5)
    check(rate, {0: 0, 15: 0.4, 30: 0.8, 45: 0.6, 60: 0.4, 70: 0.4})


def test_one_cycle_rises_from_a_25th_and_falls_along_cosines():
    rate = schedule("one_cycle", warmup_epochs=4, final_fraction=0.01)
    start, peak, end = 0.8 / 25, 0.8, 0.008
    points = {0: start, 12: (start + peak) / 2, 24: peak, 42: (peak + end) / 2, 60: end}
    points[8] = start + (peak - start) * 0.25  # A third of the rise: (1 - cos 60°) / 2.
    check(rate, points)


def test_a_warm_up_as_long_as_the_run():
    check(schedule("cosine", warmup_epochs=EPOCHS), {0: 0, 30: 0.4, 59: 0.8 * 59 / 60})


def test_a_run_of_more_steps_than_are_counted_is_refused():
    schedule("cosine", epochs=2**31 - 1, per_epoch=1)
    with pytest.raises(UserError, match="num_epochs may be up to 1073741823"):
        schedule("cosine", epochs=2**30, per_epoch=2)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("everything", [True, False])
def test_weight_decay_leaves_out_vectors_if_asked(name, everything):
    config = default.get_config().optimizer
    config.name = name
    config.weight_decay = 0.1
    config.decay_bias_and_norm = everything
    chain = optimizer.create_optimizer(config, lambda step: 1.0)
    params = {
        "dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
        "bn": {"scale": jnp.ones(3), "bias": jnp.ones(3)},
        "conv": {"kernel": jnp.ones((1, 1, 2, 3))},
    }
    zero = {group: {k: jnp.zeros_like(v) for k, v in params[group].items()} for group in params}
    # Without a gradient, a parameter moves only by its decay.
    updates, _ = chain.update(zero, chain.init(params), params)
    moved = {f"{g}.{k}" for g in updates for k, v in updates[g].items() if np.any(v)}
    vectors = {"dense.bias", "bn.scale", "bn.bias"} if everything else set()
    assert moved == {"dense.kernel", "conv.kernel"} | vectors


def test_the_config_offers_every_optimizer_and_schedule():
    assert set(default.FIELDS["optimizer.name"].choices) == set(optimizer.OPTIMIZERS)
    assert set(default.FIELDS["lr_schedule.name"].choices) == set(schedules.SCHEDULES)
