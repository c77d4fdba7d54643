"""Any value in any field: a config is refused in lines or it trains; nothing crashes or hangs.

Hypothesis draws the values, the same ones each time. CIFAR_JAX_FUZZ multiplies how many.
"""

import contextlib
import math
import os

import jax
import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from cifar_jax import config as config_lib
from cifar_jax import models, steps
from cifar_jax.data import datasets
from cifar_jax.errors import UserError
from cifar_jax.inference import evaluate
from cifar_jax.runtime import parallel
from cifar_jax.steps.state import inference_variables
from cifar_jax.training import loop
from cifar_jax.training import run as run_lib
from configs import default

MORE = int(os.environ.get("CIFAR_JAX_FUZZ", "1"))
DEFAULTS = config_lib.flatten(default.get_config())
TYPES = {
    name: default.get_config().get_ref(name).get_type()
    if "." not in name
    else default.get_config()[name.split(".")[0]].get_type(name.split(".")[1])
    for name in DEFAULTS
}

FLOATS = st.one_of(
    st.floats(),
    st.floats(0, 1),
    st.sampled_from([-0.0, math.inf, -math.inf, math.nan, 1e-45, 1e-300, 1 - 1e-12, 1e38, 1e308]),
)
INTEGERS = st.one_of(
    st.integers(),
    st.integers(0, 300),
    st.sampled_from([-1, 2**31 - 1, 2**31, 2**63, 10**12, 10**18, 10**400, 10**5000]),
)
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from([*models.MODELS, "sgd", "adamw", "linear", "cosine", "coarse", "cifar100"]),
    st.sampled_from(["\0", "\n", "\udcff", "é" * 10_000, "../..", "/dev/zero", "cifar100:3.0.2"]),
)
TUPLES = st.lists(st.one_of(INTEGERS, FLOATS, TEXTS), max_size=5).map(tuple)
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    FLOATS,
    INTEGERS,
    TEXTS,
    TUPLES,
    st.dictionaries(st.text("ab \n", max_size=3), INTEGERS),
)
OF_TYPE = {bool: st.booleans(), int: INTEGERS, float: FLOATS, str: TEXTS, tuple: TUPLES}


def of_field(name):
    """Mostly values of the field's type, sometimes anything."""
    fitting = OF_TYPE[TYPES[name]]
    return st.tuples(st.just(name), st.one_of(fitting, fitting, fitting, ANYTHING))


CHANGES = st.lists(st.sampled_from(sorted(DEFAULTS)).flatmap(of_field), min_size=1, max_size=4)


def changed(config, changes) -> ConfigDict:
    """The config with some fields changed to any value of any type."""
    fields = config.to_dict()
    for name, value in changes:
        *groups, field = name.split(".")
        group = fields
        for key in groups:
            group = group[key]
        group[field] = value
    return ConfigDict(fields)


@settings(
    max_examples=150 * MORE,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(CHANGES)
@example([("batch_size", 10**18), ("num_epochs", 10**12), ("augment.cutout", 10**5000)])
@example([("model.name", "mlp"), ("model.hidden_sizes", (10**9,))])
@example([("model.name", "mlp"), ("model.hidden_sizes", (10**400, math.nan, "a", 2**63))])
@example([("lr_schedule.boundaries", (1, 10**30)), ("lr_schedule.factor", 1e308)])
@example([("dataset.std", (math.nan, -0.0, 1e-45)), ("dataset.mean", (math.inf,))])
def test_every_config_is_accepted_or_refused_in_lines(changes):
    try:
        config_lib.validate(changed(default.get_config(), changes), default.FIELDS)
    except UserError as error:
        lines = str(error).split("\n")
        # Each option of a model may be wrong.
        assert 1 <= len(lines) <= 12
        for line in lines:
            assert line.startswith("config: ")
            assert line.isprintable()
            assert len(line) < 400


def small(config: ConfigDict) -> ConfigDict:
    """Makes only the slow parts small: images, network and batch."""
    config.dataset.name = "digits"
    config.dataset.labels = "fine"
    config.dataset.image_size = 8
    config.augment.crop_padding = min(config.augment.crop_padding, 8)
    config.augment.cutout = min(config.augment.cutout, 8)
    config.batch_size = min(config.batch_size, 4)
    config.dataset.train_examples = config.dataset.validation_examples = 0
    return config


def data() -> datasets.Dataset:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 8, 8, 3), np.uint8)
    split = datasets.Split(datasets.aligned(images), datasets.aligned(np.arange(6, dtype=np.int32)))
    names = tuple("abcdef")
    return datasets.Dataset("six", split, split, None, names, (0.5,) * 3, (0.2,) * 3)


# The fields that decide what a step computes, with values that are accepted.
NUMBERS = st.one_of(st.floats(0, 1), st.floats(0, config_lib.FINITE, width=32), st.just(-0.0))
STEP_FIELDS = {
    "seed": st.integers(0, 2**32 - 1),
    "num_epochs": st.integers(1, config_lib.COUNT),
    "batch_size": st.integers(1, 4),
    "augment.crop_padding": st.integers(0, 8),
    "augment.cutout": st.integers(0, 8),
    "augment.flip": st.booleans(),
    "augment.padding_mode": st.sampled_from(default.FIELDS["augment.padding_mode"].choices),
    "augment.brightness": st.floats(0, 10),
    "augment.contrast": st.floats(0, 1),
    "augment.mixup": st.one_of(st.just(0.0), st.floats(1e-6, 1000.0)),
    "model.dtype": st.sampled_from(default.FIELDS["model.dtype"].choices),
    "label_smoothing": st.floats(0, 1),
    "ema_decay": st.floats(0, 1),
    "sync_batch_norm": st.booleans(),
    "optimizer.name": st.sampled_from(default.FIELDS["optimizer.name"].choices),
    "optimizer.momentum": st.floats(0, 1),
    "optimizer.beta1": st.floats(0, 1),
    "optimizer.epsilon": NUMBERS,
    "optimizer.weight_decay": NUMBERS,
    "optimizer.clip_norm": NUMBERS,
    "lr_schedule.name": st.sampled_from(default.FIELDS["lr_schedule.name"].choices),
    "lr_schedule.learning_rate": NUMBERS,
    "lr_schedule.boundaries": st.lists(NUMBERS, max_size=3, unique=True).map(sorted).map(tuple),
    "lr_schedule.factor": NUMBERS,
    "lr_schedule.warmup_epochs": st.floats(0, 1e9),
    "lr_schedule.final_fraction": st.floats(0, 1),
    "eval_batch_size": st.integers(1, config_lib.COUNT),
    "model": st.sampled_from(
        [
            {"name": "linear"},
            {"name": "mlp", "hidden_sizes": (3,), "batch_norm": True, "dropout": 0.5},
            {"name": "mlp", "hidden_sizes": (), "activation": "selu"},
            {"name": "mlp", "hidden_sizes": (2, 1), "activation": "selu", "dropout": 0.999},
        ]
    ),
}


@settings(
    max_examples=5 * MORE,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.fixed_dictionaries(STEP_FIELDS))
def test_a_config_that_is_accepted_trains_a_step(fields):
    model = fields.pop("model")
    changes = [*fields.items(), *((f"model.{name}", value) for name, value in model.items())]
    config = small(changed(default.get_config(), changes))
    with contextlib.suppress(UserError):
        config_lib.validate(config, default.FIELDS)
        run = run_lib.create_run(config, "", data())
        state = parallel.replicate(run_lib.first_state(run))
        images = parallel.place((run.dataset.train.images, run.dataset.train.labels))
        state, metrics = steps.train_steps(run.task)(state, images, np.uint32(0), np.int32(1))
        host = parallel.unreplicate(state)
        result = evaluate.evaluate(
            steps.eval_sums(run.task), inference_variables(state), images, run.dataset.class_names
        )
        # A loss that is not finite is refused in words; anything else is a step.
        loop.check_finite(run, parallel.unreplicate(metrics), host.params, {"test": result})
        assert host.step == 1
        assert result.count == 6
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(host.opt_state))
