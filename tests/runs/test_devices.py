"""Eight simulated devices compute the same as one, to rounding, and resume its runs."""

import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_jax import steps
from cifar_jax.data import datasets
from cifar_jax.models import create_model
from cifar_jax.runtime import parallel
from cifar_jax.steps import state as states
from cifar_jax.storage import checkpoint
from cifar_jax.training import run
from configs import default
from tests.helpers import data_files, runs

BATCH, STEPS = 32, 3
# No number of devices above 1 divides 43. Evaluation takes two passes, the second partly empty.
TEST_IMAGES = 43
FIELDS = {
    "num_epochs": 2,
    "batch_size": BATCH,
    "eval_batch_size": 30,
    "dataset.name": "cifar10",
    "dataset.image_size": 8,
    "augment.crop_padding": 1,
    "augment.flip": True,
    "augment.cutout": 2,
    "model.name": "mlp",
    "model.hidden_sizes": "(16,)",
    "model.batch_norm": True,
    "model.dropout": 0.2,
    "label_smoothing": 0.1,
    "ema_decay": 0.9,
    # Adam would scale up small gradients together with their roundings.
    "optimizer.name": "sgd",
    "lr_schedule.name": "constant",
    "lr_schedule.learning_rate": 0.1,
}
MIXUP = {"augment.mixup": 0.4}


@pytest.fixture(scope="module")
def fields(fields, folder):
    """FIELDS, on random images in an official archive: `STEPS` batches and a partial one."""
    train = data_files.random_part(STEPS * BATCH + 9, 10, seed=1)
    test = data_files.random_part(TEST_IMAGES, 10, seed=2)
    files = data_files.official_files("cifar10", "python", train, test)
    archive = data_files.write_folder(folder, "cifar10", "python", files)
    return fields | {"dataset.archive": archive}


@pytest.fixture(scope="module")
def start(folder):
    """start(name, fields, devices) starts a run. Its result waits for the end and returns the workdir."""

    def run(name, fields, devices):
        workdir = folder / name
        args = runs.arguments(workdir, fields)
        cache = folder / "compiled"
        started = runs.Started(args, folder / f"{name}.log", devices, cache=cache)

        def end():
            ended = started.wait()
            assert ended.status == 0, ended.output
            report = json.loads((workdir / "report.json").read_text())
            assert report["device"].startswith(f"{devices} x ")
            return workdir

        return end

    return run


@pytest.fixture(scope="module")
def on_one_and_eight(start, fields):
    """The workdirs of a recipe that uses every source of randomness, on one and on eight devices."""
    ends = [start(f"on_{devices}", fields | MIXUP, devices) for devices in (1, 8)]
    return [end() for end in ends]


def assert_same_run(a, b):
    step = 2 * STEPS
    runs.assert_same_to_rounding(runs.read_state(a, step), runs.read_state(b, step))
    for mine, other in zip(runs.read_metrics(a), runs.read_metrics(b), strict=True):
        assert mine == pytest.approx(other, rel=1e-5)
    results = [json.loads((path / "report.json").read_text())["test"] for path in (a, b)]
    assert results[0]["images"] == TEST_IMAGES
    assert results[0]["confusion_matrix"] == results[1]["confusion_matrix"]


def test_eight_devices_train_and_evaluate_as_one(on_one_and_eight):
    assert_same_run(*on_one_and_eight)


def test_one_device_resumes_a_run_of_eight(on_one_and_eight, start, fields, folder):
    _, on_eight = on_one_and_eight
    workdir = folder / "from_eight_on_one"
    shutil.copytree(on_eight, workdir)
    # As if the run had stopped after its first epoch.
    shutil.rmtree(workdir / "checkpoints" / str(2 * STEPS))
    assert_same_run(on_eight, start(workdir.name, fields | MIXUP, 1)())


def _matrix(fields, folder, log):
    """Trains `STEPS` steps on A devices, then `STEPS` more on B from the checkpoint, for all pairs of COUNTS.

    One process with eight devices uses the first few of them. It writes each final state as "A_B.npz".
    """
    os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
    os.environ["XLA_FLAGS"] = runs.flags(8)
    jax.config.update("jax_platforms", "cpu")
    devices = jax.devices()
    config = default.get_config()
    for name, value in fields.items():
        *group, field = name.split(".")
        value = (16,) if field == "hidden_sizes" else value
        value = str(value) if isinstance(value, Path) else value
        config.update({group[0]: {field: value}} if group else {field: value})
    dataset = datasets.load(config.dataset, config.seed)

    seed = np.uint32(config.seed)

    def use(count):
        jax.device_count = jax.local_device_count = lambda: count
        jax.devices = jax.local_devices = lambda: devices[:count]

    tasks, mapped = {}, {}
    for count in COUNTS:
        use(count)
        tasks[count] = run.create_run(config, str(folder / str(count)), dataset)
        mapped[count] = steps.train_steps(tasks[count].task)

    def train(count, state):
        use(count)
        data = parallel.place((dataset.train.images, dataset.train.labels))
        state, _ = mapped[count](parallel.replicate(state), data, seed, np.int32(STEPS))
        return parallel.unreplicate(state)

    first = jax.device_get(run.first_state(tasks[1]))
    for before in COUNTS:
        halfway = train(before, first)
        with checkpoint.Checkpoints(str(folder / str(before))) as checkpoints:
            checkpoints.save(halfway, {"history": []}, None)
            checkpoints.wait()
            restored, _ = checkpoints.restore(run.state_shapes(tasks[before]))
        for after in COUNTS:
            leaves, _ = jax.tree_util.tree_flatten_with_path(train(after, restored))
            by_name = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
            np.savez(folder / f"{before}_{after}.npz", **by_name)


COUNTS = (1, 2, 8)


@pytest.fixture(scope="module")
def matrix(fields, folder):
    """matrix(a, b): the state after training on `a` devices, a checkpoint, and training on `b`."""
    results = folder / "matrix"
    results.mkdir()
    log = folder / "matrix.log"
    process = runs.context().Process(target=_matrix, args=(fields | MIXUP, results, log))
    process.start()
    process.join(runs.DEADLINE_SECONDS)
    assert process.exitcode == 0, log.read_text()

    def load(before, after):
        with np.load(results / f"{before}_{after}.npz") as file:
            return dict(file)

    return load


@pytest.mark.parametrize(
    ("before", "after"), [(a, b) for a in COUNTS for b in COUNTS if (a, b) != (1, 1)]
)
def test_a_checkpoint_of_any_number_of_devices_resumes_on_any_other(matrix, before, after):
    alone, here = matrix(1, 1), matrix(before, after)
    assert here[".step"] == 2 * STEPS
    runs.assert_same_to_rounding(here, alone)


def test_a_checkpoint_does_not_record_devices(matrix, folder):
    """It holds NumPy arrays, without a sharding or device names that another machine would look for."""
    saved = folder / "matrix" / "8" / "checkpoints" / str(STEPS) / "state"
    assert not [path.name for path in saved.rglob("*sharding*")]
    metadata = json.loads((saved / "_METADATA").read_text())
    kinds = {entry["value_metadata"]["value_type"] for entry in metadata["tree_metadata"].values()}
    assert kinds == {"np.ndarray"}


def test_local_batch_norm_averages_the_statistics_of_the_devices(start, fields, folder):
    local = {
        "num_epochs": 1,
        "dataset.train_examples": BATCH,
        "augment.crop_padding": 0,
        "augment.flip": False,
        "augment.cutout": 0,
        "sync_batch_norm": False,
    }
    workdir = start("local", fields | local, 8)()
    got = runs.read_state(workdir, 1)

    # By hand: the outputs of the first layer on the eight parts of the only batch.
    config = default.get_config()
    config.dataset.update(name="cifar10", image_size=8, train_examples=BATCH)
    config.dataset.update(
        archive=str(fields["dataset.archive"]), cache_dir=str(fields["dataset.cache_dir"])
    )
    dataset = datasets.load(config.dataset, config.seed)
    model = create_model("mlp", 10, hidden_sizes=(16,), batch_norm=True)
    first = states.init_variables(model, config.seed, 8)
    order = steps.epoch_order(config.seed, 0, BATCH)
    pixels = (dataset.train.images[order] / 255 - dataset.mean) / dataset.std
    kernel = np.asarray(first["params"]["dense1"]["kernel"], np.float64)
    parts = (pixels.reshape(BATCH, -1) @ kernel).reshape(8, BATCH // 8, 16)
    mean = 0.1 * parts.mean(1).mean(0)
    var = 0.9 * 1 + 0.1 * parts.var(1, ddof=1).mean(0)
    np.testing.assert_allclose(got["batch_stats/bn1/mean"], mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got["batch_stats/bn1/var"], var, rtol=1e-4)
    # The variance of the whole batch differs.
    assert np.abs(0.9 + 0.1 * parts.reshape(BATCH, 16).var(0, ddof=1) - var).max() > 1e-3


def test_a_batch_that_eight_devices_do_not_divide_is_refused_in_one_line(fields, folder):
    args = runs.arguments(folder / "uneven", fields | {"batch_size": 36})
    ended = runs.run(args, folder / "log", 8)
    assert ended.status == 1
    (line,) = ended.output.splitlines()
    assert "batch_size 36 is not divisible by the 8 devices" in line
    assert not (folder / "uneven").exists()


def test_unreplicate_copies():
    """A step may write its result over its state, because the state is donated."""
    step = parallel.map_train(lambda state, data, seed, count: (state * 2 + count, jnp.sum(state)))
    first = np.arange(1000, dtype=np.float32)
    state, _ = step(parallel.replicate(first), (), 0, 0)
    np.testing.assert_array_equal(first, np.arange(1000))
    before = parallel.unreplicate(state)
    assert before.flags.owndata
    kept = before.copy()
    for _ in range(3):
        state, _ = step(state, (), 0, 1)
    jax.block_until_ready(state)
    np.testing.assert_array_equal(before, kept)
    np.testing.assert_array_equal(kept, 2 * np.arange(1000))


def test_a_step_is_compiled_once():
    compiled = []

    def function(state, data, seed, count):
        compiled.append(count)
        return state + data[0] + seed + count, jnp.sum(state)

    step = parallel.map_train(function)
    data = parallel.place((np.ones(5, np.float32),))
    state = parallel.replicate(np.zeros(5, np.float32))
    for seed, count in ((7, 3), (8, 1), (9, 2)):
        state, _ = step(state, data, np.uint32(seed), np.int32(count))
    np.testing.assert_array_equal(parallel.unreplicate(state), np.full(5, 33))
    assert len(compiled) == 1
