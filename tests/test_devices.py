"""Eight (simulated) devices compute what one does, to rounding, and go on with its runs."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_jax import datasets, parallel, steps
from cifar_jax import state as states
from cifar_jax.models import create_model
from configs import default
from tests import data_fixtures, runs

BATCH, STEPS = 32, 3
# 43 test images: no number of devices but 1 divides it; two passes, the second partly empty.
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
    # Adam would divide small gradients, rounding and all, by their size.
    "optimizer.name": "sgd",
    "lr_schedule.name": "constant",
    "lr_schedule.learning_rate": 0.1,
}
MIXUP = {"augment.mixup": 0.4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("devices")


@pytest.fixture(scope="module")
def fields(folder):
    """The recipe, on random images: `STEPS` batches and a part of one, from an official archive."""
    train = data_fixtures.random_part(STEPS * BATCH + 9, 10, seed=1)
    test = data_fixtures.random_part(TEST_IMAGES, 10, seed=2)
    files = data_fixtures.official_files("cifar10", "python", train, test)
    archive = data_fixtures.write_folder(folder, "cifar10", "python", files)
    return FIELDS | {"dataset.archive": archive, "dataset.cache_dir": folder / "images"}


@pytest.fixture(scope="module")
def start(folder):
    """start(name, fields, devices)() runs a recipe to its end and returns its workdir."""

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
    """The workdirs of a recipe with all that draws random numbers, on one and on eight devices."""
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


def test_other_numbers_of_devices_go_on_with_a_checkpoint(on_one_and_eight, start, fields, folder):
    _, on_eight = on_one_and_eight
    ends = []
    for devices in (1, 2):
        workdir = folder / f"from_eight_on_{devices}"
        shutil.copytree(on_eight, workdir)
        # As if the run had been stopped after its first epoch.
        shutil.rmtree(workdir / "checkpoints" / str(2 * STEPS))
        ends.append(start(workdir.name, fields | MIXUP, devices))
    for end in ends:
        assert_same_run(on_eight, end())


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

    # By hand: what the first layer gave on the eight parts of the only batch.
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
    # The whole batch's variance is another one.
    assert np.abs(0.9 + 0.1 * parts.reshape(BATCH, 16).var(0, ddof=1) - var).max() > 1e-3


def test_a_batch_that_eight_devices_do_not_divide_is_refused_in_one_line(fields, folder):
    args = runs.arguments(folder / "uneven", fields | {"batch_size": 36})
    ended = runs.run(args, folder / "log", 8)
    assert ended.status == 1
    (line,) = ended.output.splitlines()
    assert "batch_size 36 is not divisible by the 8 devices" in line
    assert not (folder / "uneven").exists()


def test_what_is_taken_from_the_devices_is_a_copy():
    """A step may write its result where its state was, which is donated."""
    step = parallel.map_train(lambda state, data, count: (state * 2 + count, jnp.sum(state)))
    first = np.arange(1000, dtype=np.float32)
    state, _ = step(parallel.replicate(first), (), 0)
    np.testing.assert_array_equal(first, np.arange(1000))
    before = parallel.unreplicate(state)
    assert before.flags.owndata
    kept = before.copy()
    for _ in range(3):
        state, _ = step(state, (), 1)
    jax.block_until_ready(state)
    np.testing.assert_array_equal(before, kept)
    np.testing.assert_array_equal(kept, 2 * np.arange(1000))


def test_a_step_is_compiled_once():
    compiled = []

    def function(state, data, count):
        compiled.append(count)
        return state + data[0] + count, jnp.sum(state)

    step = parallel.map_train(function)
    data = parallel.place((np.ones(5, np.float32),))
    state = parallel.replicate(np.zeros(5, np.float32))
    for count in (3, 1, 2):
        state, _ = step(state, data, np.int32(count))
    np.testing.assert_array_equal(parallel.unreplicate(state), np.full(5, 9))
    assert len(compiled) == 1
