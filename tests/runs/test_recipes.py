"""Every recipe in configs/ is valid, has its command in its docstring, and trains a step when made small."""

import ast
import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_jax import config as config_lib
from cifar_jax import models, steps
from cifar_jax.data.datasets import Dataset, Split
from cifar_jax.runtime import parallel
from cifar_jax.steps.state import EpochMetrics
from cifar_jax.training.run import create_run, first_state, state_shapes
from configs import default

ROOT = Path(__file__).parents[2]
RECIPES = sorted(
    path
    for path in (ROOT / "configs").rglob("*.py")
    if path.name not in ("__init__.py", "default.py", "rerun.py")
)


@pytest.fixture(scope="module")
def made_small() -> set[str]:
    """The small recipes that a step was made with."""
    return set()


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@pytest.fixture
def shallow(monkeypatch, shallow_mobilenet):
    """Networks with fewer blocks; one of each kind is left. They compile faster."""
    fewer = {"resnet18": {"stage_sizes": (1, 1)}}
    fewer |= {name: {"channels": (64, 256)} for name in ("airbench94", "airbench96")}
    for name, fields in fewer.items():
        network = functools.partial(models.MODELS[name], **fields)
        monkeypatch.setitem(models.MODELS, name, network)


def small(config):
    """The recipe with a narrow and shallow network, batches of eight, and small images."""
    config.batch_size = 8
    name = config.model.name
    if name.startswith("resnet"):
        config.model.name = f"resnet8_{name[-2:]}" if name.endswith("_v2") else "resnet8_v1"
        config.model.stem = None  # the CIFAR ResNets have none
    if "width" in models.model_options(config.model.name):
        config.model.width = 0.125
    config.dataset.image_size = min(config.dataset.image_size, 64)
    if config.model.fcn_stride is not None:
        config.model.fcn_stride = min(config.model.fcn_stride, 4)
    config.lr_schedule.warmup_epochs = 0.0  # the first step of a warm-up has rate zero
    if config.model.hidden_sizes is not None:
        config.model.hidden_sizes = tuple(8 for _ in config.model.hidden_sizes)
    return config


def random_dataset(config):
    rng = np.random.default_rng(0)
    sets = {"cifar10": 10, "cifar100": 100, "digits": 10, "mosaic": 10, "segmentation_folder": 7}
    classes = sets[config.dataset.name]
    images = rng.integers(0, 256, (16, 32, 32, 3), np.uint8)
    if models.segments(config.model):
        split = Split(images, rng.integers(0, classes, (16, 32, 32)).astype(np.uint8))
    else:
        split = Split(images, rng.integers(0, classes, 16).astype(np.int32))
    names = tuple(str(i) for i in range(classes))
    return Dataset(
        config.dataset.name, split, split, None, names, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    )


def test_the_recipes_of_the_readme_exist():
    names = {str(path.relative_to(ROOT / "configs")) for path in RECIPES}
    assert {"quickstart.py", "lenet.py", "resnet20_v2.py", "resnet18.py", "mobilenet_v2.py"} < names
    assert len([name for name in names if name.startswith("cifar100/")]) == 11


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_docstring_gives_the_command(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert f"--config={path.relative_to(ROOT)}" in docstring


def random_state(run):
    """A state for a first step, with random parameters. To compile `first_state` takes as long as a step."""
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        group, name = path[0].name, getattr(path[-1], "key", "")
        # The kernel of the whitening is not trained: it stands beside the statistics.
        if group in ("params", "batch_stats") and name not in ("scale", "mean", "var"):
            return rng.normal(0, 0.1, leaf.shape).astype(leaf.dtype)
        return np.full(leaf.shape, name in ("scale", "var"), leaf.dtype)

    state = jax.tree_util.tree_map_with_path(fill, state_shapes(run))
    return state.replace(metrics=EpochMetrics.zero(run.task.kind.correct_dtype))


def stepped(step, state, devices):
    """The states after a step on that many devices, as from pmap: a leading axis of devices."""
    states = jax.tree.map(lambda x: jnp.stack([x] * devices), state)
    return jax.jit(jax.vmap(step, axis_name=parallel.AXIS))(states)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_is_valid(path):
    config_lib.validate(load(path), default.FIELDS)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
@pytest.mark.usefixtures("shallow")
def test_a_small_step_of_the_recipe_changes_every_parameter(path, made_small):
    config = small(load(path))
    if (recipe := config_lib.to_json(config)) in made_small:
        return  # the ResNets of other depths
    made_small.add(recipe)
    run = create_run(config, "", random_dataset(config))
    state = random_state(run)
    data = jax.tree.map(jnp.asarray, (run.dataset.train.images, run.dataset.train.labels))

    def step(state):
        order = steps.epoch_order(config.seed, 0, len(data[0]))
        return steps.train_step(run.task, state, data, order)

    states = jax.tree.map(lambda x: x[None], state)
    after = jax.pmap(step, axis_name=parallel.AXIS)(states)
    assert int(after.metrics.failed_step[0]) == -1
    assert np.isfinite(float(after.metrics.loss[0]))
    for old, new in zip(jax.tree.leaves(state.params), jax.tree.leaves(after.params), strict=True):
        assert np.abs(np.asarray(new)[0] - old).max() > 0


@pytest.mark.usefixtures("shallow")
def test_a_step_of_the_speedrun_is_the_same_on_two_devices(monkeypatch):
    config = small(load(ROOT / "configs" / "speedrun94.py"))
    config.model.dtype = "float32"
    run = create_run(config, "", random_dataset(config))
    first = first_state(run)
    data = jax.tree.map(jnp.asarray, (run.dataset.train.images, run.dataset.train.labels))

    def step(state):
        order = steps.epoch_order(config.seed, 0, len(data[0]))
        return steps.train_step(run.task, state, data, order)

    results = {}
    for devices in (1, 2):
        monkeypatch.setattr(jax, "device_count", lambda devices=devices: devices)
        results[devices] = jax.device_get(stepped(step, first, devices))
    one, two = results[1], results[2]
    # The whitening kernel is not trained.
    for after in (one, two):
        kernel = after.batch_stats["whitening"]["kernel"][0]
        np.testing.assert_array_equal(kernel, first.batch_stats["whitening"]["kernel"])
    assert float(one.metrics.loss[0]) == pytest.approx(float(two.metrics.loss[0]), rel=1e-5)
    leaves = [jax.tree_util.tree_leaves_with_path(x) for x in (one, two)]
    for (path, alone), (_, shared) in zip(*leaves, strict=True):
        np.testing.assert_array_equal(shared[0], shared[1])
        # Muon scales up the small parts of a gradient together with their roundings.
        scale = np.abs(alone).max()
        assert np.abs(shared[0] - alone[0]).max() <= 1e-3 * scale, path
