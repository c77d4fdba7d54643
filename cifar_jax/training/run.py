"""A run: its recipe, data, model and optimizer, and its first state."""

import dataclasses
import functools
import os

import jax
import numpy as np
from ml_collections import ConfigDict

from cifar_jax import config as config_lib
from cifar_jax import models, steps
from cifar_jax.data import datasets
from cifar_jax.errors import UserError
from cifar_jax.inference import init_from
from cifar_jax.runtime import parallel
from cifar_jax.steps import (
    TrainState,
    augment,
    create_state,
    init_variables,
    optimizer,
    schedules,
    whitening,
)
from cifar_jax.storage import provenance


@dataclasses.dataclass(frozen=True)
class Run:
    """What the training loop uses and never changes.

    Attributes:
      workdir: the folder of the run.
      schedule: step -> learning rate, float32 [], compiled.
      steps_per_epoch: whole batches in an epoch.
    """

    config: ConfigDict
    workdir: str
    dataset: datasets.Dataset
    task: steps.Task
    schedule: object
    steps_per_epoch: int

    @functools.cached_property
    def fingerprint(self) -> dict[str, str]:
        """`provenance.dataset_fingerprint` of the data."""
        return provenance.dataset_fingerprint(self.dataset)

    @property
    def autotune_level(self) -> int | None:
        """How much XLA tries out, as `programs.compile_together` takes it."""
        return None if self.config.deterministic else self.config.autotune_level

    def path(self, name: str) -> str:
        return os.path.join(self.workdir, name)


def create_run(config: ConfigDict, workdir: str, dataset: datasets.Dataset) -> Run:
    """The run of a recipe on a data set. Raises UserError if a batch is larger than the training set."""
    per_epoch = steps.steps_per_epoch(len(dataset.train.images), config.batch_size)
    if not per_epoch:
        raise UserError(
            f"batch_size {config.batch_size} is larger than the training set of "
            f"{len(dataset.train.images)} examples"
        )
    schedule = schedules.learning_rate_schedule(config.lr_schedule, config.num_epochs, per_epoch)
    model = models.create_model(
        config.model.name,
        len(dataset.class_names),
        axis_name=parallel.AXIS,
        sync_batch_norm=config.sync_batch_norm,
        **config_lib.model_options(config),
    )
    whitening_epochs, whitening_schedule = config.optimizer.whitening_bias_epochs, None
    if whitening_epochs:
        whitening_schedule = schedules.ended_after(config.lr_schedule, whitening_epochs, per_epoch)
    task = steps.Task(
        model=model,
        optimizer=optimizer.create_optimizer(
            config.optimizer,
            schedule,
            config.transfer.backbone_lr_factor,
            schedules.steps_of(config.transfer.frozen_epochs, per_epoch),
            config.model.dtype,
            whitening_schedule,
        ),
        config=config,
        num_classes=len(dataset.class_names),
        mean=dataset.mean,
        std=dataset.std,
        image_size=config.dataset.image_size,
        kind=steps.kind_of(config.model),
    )
    return Run(config, workdir, dataset, task, jax.jit(schedule), per_epoch)


def first_state(run: Run) -> TrainState:
    """The state before the first step: from the weights of `init_from` if set, else from scratch.

    From scratch, a whitening layer gets its kernel from the training images. The weights of `init_from`
    include the kernel they were trained with.
    """
    config = run.config
    # Runs once: a lower optimisation level gives the same bits and compiles three times faster.
    options = {"xla_backend_optimization_level": 1}
    start = jax.jit(functools.partial(fresh_state, run), compiler_options=options)
    state = start(np.uint32(config.seed), whitening_images(run))
    if not config.init_from:
        return state
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    variables, notes = init_from.replaced(variables, config)
    variables.setdefault("batch_stats", {})
    parallel.say(f"starting from the weights in {config.init_from}")
    for note in notes:
        parallel.say(f"  {note}")
    return _state(run, variables)


def whitening_images(run: Run) -> np.ndarray | None:
    """The uint8 training images that the whitening kernel is computed from; None without such a layer."""
    if not getattr(run.task.model, models.WHITENING, False):
        return None
    return whitening.images_for(run.config.dataset.image_size, run.dataset.train.images)


def state_shapes(run: Run) -> TrainState:
    """A state that holds shapes and dtypes instead of arrays."""
    return jax.eval_shape(lambda: fresh_state(run, 0))


def fresh_state(run: Run, seed, images=None) -> TrainState:
    """A state from scratch. The seed is an argument, so one compiled program serves all seeds.

    Args:
      run: the run.
      seed: uint32 [], the source of all randomness.
      images: `whitening_images`; None leaves the initial kernel of `layers.Whitening`.
    """
    task, size = run.task, run.config.dataset.image_size
    variables = init_variables(task.model, seed, size)
    if images is not None:
        inputs = augment.network_input(images, size, task.mean, task.std)
        variables = whitening.replaced(variables, inputs)
    return _state(run, variables)


def _state(run: Run, variables: dict) -> TrainState:
    ema, task = bool(run.config.ema_decay), run.task
    return create_state(variables, task.optimizer, ema, task.kind.correct_dtype)
