"""The training step: a pure function of one device, mapped over the axis "batch".

Many steps run per dispatch, in a loop whose length is an argument. One compiled program serves any
number of steps, so an interruption changes no bit of the result.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from jax import lax

from cifar_jax.ops import cpu_kernels
from cifar_jax.runtime import parallel
from cifar_jax.steps.batch import epoch_order, steps_per_epoch
from cifar_jax.steps.packing import packing
from cifar_jax.steps.state import EpochMetrics, TrainState, step_keys
from cifar_jax.steps.task import Task


def training_batch(task: Task, data, order, step, places):
    """Some examples of a step's global batch, as the network gets them: `Kind.training_batch` of the task."""
    return task.kind.training_batch(task, data, order, step, places)


def train_step(task: Task, state: TrainState, data, order, kernels=None) -> TrainState:
    """One optimizer step, on one device of the axis "batch".

    `kernels` are those of `cast_kernels`; None: the network casts each where it uses it, to the same end.
    """
    config = task.config
    local = parallel.local_batch_size(config.batch_size)
    images, labels, targets = training_batch(task, data, order, state.step, parallel.places(local))
    # If batch_stats are not mutable, batch norm normalises with them, as in evaluation.
    mutable = [] if config.transfer.freeze_batch_norm else ["batch_stats"]

    def loss_fn(params):
        logits, updated = task.model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            mutable=mutable,
            rngs={"dropout": step_keys(task.root_seed, state.step)["dropout"]},
        )
        loss, correct = task.kind.loss(task, logits, labels, targets)
        return loss, (correct, updated.get("batch_stats", state.batch_stats))

    params = state.params if kernels is None else _with_kernels(state.params, kernels)
    (loss, (correct, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    grads = jax.tree.map(lambda grad, param: grad.astype(param.dtype), grads, state.params)
    grads, loss = parallel.mean((grads, loss))
    correct = lax.psum(correct, parallel.AXIS)
    if not config.sync_batch_norm:
        batch_stats = parallel.mean(batch_stats)

    updates, opt_state = task.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        ema=_moving_average(config.ema_decay, state, params, batch_stats),
        metrics=_add_metrics(task, state, loss, correct, len(data[0])),
    )


def cast_kernels(task: Task, params) -> list | None:
    """The arrays of more than one axis in the type that the network computes with; None if they have it."""
    dtype = jnp.dtype(task.config.model.dtype)
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
    if all(kernel.dtype == dtype for kernel in kernels):
        return None
    return [kernel.astype(dtype) for kernel in kernels]


def _with_kernels(params, kernels: list):
    kernels = iter(kernels)
    return jax.tree.map(lambda leaf: next(kernels) if leaf.ndim > 1 else leaf, params)


def _moving_average(decay, state, params, batch_stats):
    """Exponential moving average of weights and running statistics.

    The decay rises as (1 + step) / (10 + step) up to its final value, so that the average forgets the
    initial weights (as TensorFlow's ExponentialMovingAverage with num_updates).
    """
    if not decay:
        return {}
    step = state.step.astype(jnp.float32)
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
    new = {"params": params, "batch_stats": batch_stats}
    return jax.tree.map(lambda old, x: decay * old + (1 - decay) * x, state.ema, new)


def _add_metrics(task, state, loss, correct, num_examples):
    position = state.step % steps_per_epoch(num_examples, task.config.batch_size)
    zero = EpochMetrics.zero(task.kind.correct_dtype)
    old = jax.tree.map(lambda zero, x: jnp.where(position == 0, zero, x), zero, state.metrics)
    failed_now = jnp.where(jnp.isfinite(loss), -1, state.step)
    failed_step = state.metrics.failed_step  # kept over epochs: a dispatch may run into the next
    return EpochMetrics(
        loss=old.loss + loss,
        correct=old.correct + correct,
        failed_step=jnp.where(failed_step >= 0, failed_step, failed_now),
    )


def take_steps(task: Task, state: TrainState, data, count) -> TrainState:
    """Takes `count` steps (int32 []) on one device. They may span epochs; each epoch has its own order."""
    num_examples = len(data[0])
    per_epoch = steps_per_epoch(num_examples, task.config.batch_size)
    end = state.step + count

    def to_the_end_of_the_epoch(state):
        order = epoch_order(task.root_seed, state.step // per_epoch, num_examples)
        here = jnp.minimum(end - state.step, per_epoch - state.step % per_epoch)
        step = functools.partial(train_step, task, data=data, order=order)
        if cpu_kernels.on_cpu():
            return lax.fori_loop(0, here, lambda _, state: step(state), state)
        # For a GPU: the vectors in few arrays, and kernels that are cast where they are updated, which costs
        # no launch of its own.
        pack, unpack = packing(state)

        def carried_after(state):
            return pack(state), cast_kernels(task, state.params)

        def next_step(_, carried):
            packed, kernels = carried
            return carried_after(step(unpack(packed), kernels=kernels))

        packed, _ = lax.fori_loop(0, here, next_step, carried_after(state))
        return unpack(packed)

    return lax.while_loop(lambda state: state.step < end, to_the_end_of_the_epoch, state)


def train_steps(task: Task):
    """`take_steps` mapped over the devices: (state, data, seed, count) -> (state, metrics).

    The metrics are those of the last step's epoch. A count of 0 returns the state unchanged. The seed is an
    argument (uint32 []), so one compiled program serves all seeds.
    """

    def run(state, data, seed, count):
        state = take_steps(dataclasses.replace(task, seed=seed), state, data, count)
        return state, state.metrics

    return parallel.map_train(run)
