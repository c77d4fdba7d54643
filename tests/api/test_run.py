"""Training in Python: the same bits as `main.py`, resumable, and nothing else in the process changes."""

import os
import subprocess
import sys
import time
import warnings

import jax
import numpy as np
import pytest

import cifar_jax
from cifar_jax.runtime import compile_cache
from tests.helpers import runs

FIELDS = {"num_epochs": 2, "dataset.train_examples": 256}


@pytest.fixture
def config():
    config = cifar_jax.recipe("configs/quickstart.py")
    config.update_from_flattened_dict(FIELDS)
    return config


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    """No programs from before, and none of these tests' own for later."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    monkeypatch.setattr("cifar_jax.training.report.draw_first_batch", lambda *args: None)
    for name in ("history", "confusion"):
        monkeypatch.setattr(f"cifar_jax.reporting.plots.plot_{name}", lambda *args: None)


@pytest.fixture
def slow_drawing(monkeypatch):
    """Drawing the first batch takes a thousand seconds."""
    clock, lost = time.perf_counter, [0.0]

    def draw(run):
        lost[0] = 1000.0

    monkeypatch.setattr("cifar_jax.training.report.draw_first_batch", draw)
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + lost[0])


def test_the_same_bits_as_the_command_line(config, tmp_path, slow_drawing):
    jax.config.update("jax_enable_x64", True)  # a script's own setting
    try:
        entries = []
        history = cifar_jax.train(config, tmp_path / "python", on_epoch=entries.append)
        assert jax.config.jax_enable_x64
    finally:
        jax.config.update("jax_enable_x64", False)
    assert runs.run(runs.arguments(tmp_path / "main", FIELDS), tmp_path / "log").status == 0
    ours, theirs = ((tmp_path / name / runs.BEST).read_bytes() for name in ("python", "main"))
    assert ours == theirs
    assert runs.read_metrics(tmp_path / "python") == runs.read_metrics(tmp_path / "main")
    assert [entry["epoch"] for entry in history] == [1, 2]
    assert entries == history == cifar_jax.history(tmp_path / "python")
    assert history[0]["seconds"] < 1000  # of training alone


def test_ctrl_c_and_the_same_call_again(config, tmp_path):
    whole = cifar_jax.train(config, tmp_path / "whole")

    def interrupt(entry):
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            cifar_jax.train(config, tmp_path / "stopped", on_epoch=interrupt)
    again = cifar_jax.train(config, tmp_path / "stopped")
    assert [entry["test_loss"] for entry in again] == [entry["test_loss"] for entry in whole]
    weights = [(tmp_path / name / runs.BEST).read_bytes() for name in ("whole", "stopped")]
    assert weights[0] == weights[1]


def test_a_second_run_or_evaluation_in_a_process_compiles_nothing_again(config, tmp_path):
    found = []

    def count(event, **more):
        found.append(event)

    def compiled_and_loaded(function, *args):
        found.clear()
        function(*args)
        return [found.count(f"/jax/compilation_cache/cache_{what}") for what in ("misses", "hits")]

    def train(seed):
        config.seed = seed
        cifar_jax.train(config, tmp_path / f"run{seed}")

    jax.monitoring.register_event_listener(count)
    names = [*compile_cache.SETTINGS, "jax_enable_compilation_cache"]
    before = [getattr(jax.config, name) for name in names], warnings.showwarning
    data = cifar_jax.dataset("digits")
    try:
        first, other_seed = compiled_and_loaded(train, 0), compiled_and_loaded(train, 1)
        network = cifar_jax.load(tmp_path / "run0")
        evaluation, again = (compiled_and_loaded(network.evaluate, data) for _ in range(2))
    finally:
        jax.monitoring.unregister_event_listener(count)
    assert first[0] > 2
    assert other_seed[0] == again[0] == 0
    assert other_seed[1] > 2
    assert evaluation[0] > 0
    assert again[1] > 0
    assert before == ([getattr(jax.config, name) for name in names], warnings.showwarning)
    kept = list((tmp_path / "cache").rglob("*-cache"))
    jax.jit(lambda x: x * 3 + 1)(1.5)
    assert kept == list((tmp_path / "cache").rglob("*-cache")) != []


def test_mistakes_are_said_before_anything_is_made(config, tmp_path):
    workdir = tmp_path / "run"
    config.batch_size = 0
    with pytest.raises(cifar_jax.UserError, match="batch_size is 0, but must be at least 1"):
        cifar_jax.train(config, workdir)
    with pytest.raises(cifar_jax.UserError, match="there is no run in"):
        cifar_jax.history(workdir)
    for mistake, says in (
        ({"config": "quickstart"}, "config is 'quickstart', but takes a config"),
        ({"config": None}, "config is None, but takes a config"),
        ({"workdir": ""}, "workdir is '', but takes a path"),
        ({"on_epoch": 3}, "on_epoch is 3, but takes a function"),
    ):
        with pytest.raises(cifar_jax.UserError, match=says):
            cifar_jax.train(**{"config": config, "workdir": workdir, **mistake})
    assert not workdir.exists()
    with pytest.raises(
        cifar_jax.UserError, match=r"no field dataset\.lables; did you mean 'labels'"
    ):
        cifar_jax.dataset("digits", lables="fine")


def test_a_data_set(tmp_path):
    data = cifar_jax.dataset("digits", seed=1, validation_examples=100)
    assert data.train.images.shape == (1337, 32, 32, 3)
    assert len(data.validation.labels) == 100
    same = cifar_jax.dataset(
        "digits", np.int64(1), validation_examples=np.uint8(100), cache_dir=tmp_path
    )
    np.testing.assert_array_equal(data.validation.images, same.validation.images)
    assert list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"seed": -1}, "seed is -1, but must be between 0 and 4294967295"),
        ({"seed": 2**32}, "seed is 4294967296, but must be between 0"),
        ({"seed": 1.0}, "seed is 1.0, but takes a whole number"),
        ({"seed": "1"}, "seed is '1', but takes a whole number"),
        ({"seed": True}, "seed is True, but takes a whole number"),
        ({"seed": None}, "seed is None, but takes a whole number"),
        ({"image_size": "big"}, "dataset.image_size is 'big', but takes a whole number"),
        ({"path": b"pets"}, "dataset.path is b'pets', but takes a text"),
        ({"labels": "mask"}, "digits has no mask labels"),
    ],
)
def test_wrong_fields_of_a_data_set(fields, says):
    with pytest.raises(cifar_jax.UserError, match=says):
        cifar_jax.dataset("digits", **fields)


@pytest.mark.parametrize("path", ["a\0b", b"run", None, 3])
@pytest.mark.parametrize(
    "use",
    [
        cifar_jax.history,
        cifar_jax.load,
        cifar_jax.recipe,
        lambda path: cifar_jax.load(workdir=path),
        lambda path: cifar_jax.train(cifar_jax.recipe("quickstart"), path),
    ],
)
def test_what_is_no_path(use, path):
    with pytest.raises(cifar_jax.UserError, match="but takes a path"):
        use(path)


CODE = """
import os, signal
import jax
environment = dict(os.environ)
handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

import cifar_jax

assert dict(os.environ) == environment
assert {number: signal.getsignal(number) for number in handlers} == handlers
assert sorted(cifar_jax.__all__) == [name for name in dir(cifar_jax) if name in cifar_jax.__all__]
cifar_jax.load, cifar_jax.train, cifar_jax.UserError
assert dict(os.environ) == environment
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
print("imported")
"""


def test_importing_changes_nothing():
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=runs.ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert (done.stdout, done.stderr) == ("imported\n", "")


def test_an_attribute_that_is_not_there():
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        cifar_jax.trian  # noqa: B018
