"""Learning-rate schedules: functions of the step, from a config that counts in epochs."""

import collections

import numpy as np
import optax

from cifar_jax.errors import UserError

# Steps are counted in int32.
MAX_STEPS = 2**31 - 1


def learning_rate_schedule(config, num_epochs: float, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate as a function of the step: a warm-up if there is one, then the schedule.

    Args:
      config: config.lr_schedule.
      num_epochs: the length of the whole run.
      steps_per_epoch: optimizer steps in an epoch.

    Raises:
      UserError: the run has more steps than int32 can count.
    """
    total = round(num_epochs * steps_per_epoch)
    if total > MAX_STEPS:
        raise UserError(
            f"num_epochs {num_epochs} makes {total:,} steps of training, but at most "
            f"{MAX_STEPS:,} are counted: num_epochs may be up to {MAX_STEPS // steps_per_epoch}"
        )
    warmup = round(config.warmup_epochs * steps_per_epoch)
    schedule = SCHEDULES[config.name](config, steps_per_epoch, warmup, max(total - warmup, 1))
    if not warmup:
        return schedule
    rise = _cosine_rise if config.name == "one_cycle" else _linear_rise
    return optax.join_schedules([rise(config.learning_rate, warmup), schedule], [warmup])


def steps_of(epochs: float, steps_per_epoch: int) -> int:
    """The steps in that many epochs, but no more than are counted."""
    return min(round(epochs * steps_per_epoch), MAX_STEPS)


def ended_after(config, epochs: float, steps_per_epoch: int) -> optax.Schedule:
    """`learning_rate_schedule` of a run of that many epochs; 0 from its end on."""
    steps = steps_of(epochs, steps_per_epoch)
    schedule = learning_rate_schedule(config, steps / steps_per_epoch, steps_per_epoch)
    return optax.join_schedules([schedule, optax.constant_schedule(0.0)], [steps])


def depends_on_length(config) -> bool:
    """Whether the learning rate of a recipe depends on the number of epochs."""
    return config.lr_schedule.name not in ("constant", "step")


def other_rates(config, history: list[dict]) -> list[tuple[int, str]]:
    """(step, learning rate) of the entries of a history whose rate is not that of a recipe's schedule.

    There are some if epochs were added to a run whose schedule depends on their number.
    """
    history = [entry for entry in history if isinstance(entry.get("learning_rate"), int | float)]
    if not history or not depends_on_length(config):
        return []
    steps_per_epoch = history[0]["step"] // history[0]["epoch"]
    schedule = learning_rate_schedule(config.lr_schedule, config.num_epochs, steps_per_epoch)
    scheduled = schedule(np.array([entry["step"] - 1 for entry in history]))
    rates = [entry["learning_rate"] for entry in history]
    # Another machine rounds the cosine otherwise.
    equal = np.isclose(rates, scheduled, rtol=1e-3, atol=1e-5 * config.lr_schedule.learning_rate)
    return [(history[i]["step"], f"{rates[i]:.3g}") for i in np.flatnonzero(~equal)]


def _step(config, steps_per_epoch: int, warmup: int, decay_steps: int) -> optax.Schedule:
    del decay_steps
    # Boundaries count from the start of the run, warm-up included. Two in one step both count.
    steps = [round(epoch * steps_per_epoch) for epoch in config.boundaries]
    drops = collections.Counter(step for step in steps if step <= MAX_STEPS)
    return optax.piecewise_constant_schedule(
        config.learning_rate,
        {step - warmup: config.factor**count for step, count in drops.items()},
    )


def _constant(config, steps_per_epoch: int, warmup: int, decay_steps: int) -> optax.Schedule:
    del steps_per_epoch, warmup, decay_steps
    return optax.constant_schedule(config.learning_rate)


def _cosine(config, steps_per_epoch: int, warmup: int, decay_steps: int) -> optax.Schedule:
    del steps_per_epoch, warmup
    return optax.cosine_decay_schedule(
        config.learning_rate, decay_steps, alpha=config.final_fraction
    )


def _linear(config, steps_per_epoch: int, warmup: int, decay_steps: int) -> optax.Schedule:
    del steps_per_epoch, warmup
    end = config.learning_rate * config.final_fraction
    return optax.linear_schedule(config.learning_rate, end, decay_steps)


# Name -> what follows the warm-up, as a function of (config.lr_schedule, steps per epoch, steps of the
# warm-up, steps after it). A schedule counts its own steps from the end of the warm-up.
SCHEDULES = {
    "step": _step,
    "constant": _constant,
    "cosine": _cosine,
    "linear": _linear,
    # Smith and Topin, 2018, with cosine annealing; only its rise differs from "cosine".
    "one_cycle": _cosine,
}


def _linear_rise(peak: float, steps: int) -> optax.Schedule:
    return optax.linear_schedule(0.0, peak, steps)


def _cosine_rise(peak: float, steps: int) -> optax.Schedule:
    """From 1/25 of the peak up to it, along half a cosine."""
    falling = optax.cosine_decay_schedule(peak - peak / 25, steps)
    return lambda step: peak - falling(step)
