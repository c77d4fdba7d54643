"""JAX's settings in the environment change no bit of a run, or the run warns about them."""

import shutil

import jax
import pytest

from tests.helpers import runs

FIELDS = {
    "num_epochs": 2,
    "batch_size": 64,
    "dataset.image_size": 8,
    "dataset.train_examples": 64 * 3,
    "augment.crop_padding": 1,
    "augment.flip": True,
    "augment.mixup": 0.4,
    "model.name": "mlp",
    "model.hidden_sizes": "(16,)",
    "model.batch_norm": True,
    "model.dropout": 0.2,
}
# Without our defaults, each of these would change random numbers or results, or cause a stack trace.
VARIABLES = {
    "JAX_ENABLE_X64": "1",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_RANDOM_SEED_OFFSET": "7",
    "JAX_LEGACY_PRNG_KEY": "error",
    "JAX_DISABLE_JIT": "1",
}


def train(folder, setting=None, more=()):
    """Trains in a process with a setting of JAX, (name, value). Returns what it printed."""
    log = folder / "log"
    args = (runs.arguments(folder / "run", FIELDS, *more), log, setting)
    process = runs.context().Process(target=_child, args=args)
    process.start()
    process.join(runs.DEADLINE_SECONDS)
    assert process.exitcode == 0, log.read_text()
    return log.read_text()


def _child(args, log, setting):
    if setting:
        jax.config.update(*setting)
    runs.plotless_child(args, log, 1, "", None)


@pytest.fixture(scope="module")
def plain(folder):
    """The workdir of a run without any setting."""
    assert "warning" not in train(folder)
    return folder / "run"


def test_settings_in_the_environment_change_no_bit(plain, tmp_path, monkeypatch):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    args = runs.arguments(tmp_path / "run", FIELDS)
    ended = runs.StartedPlainly(args, tmp_path / "log").wait()
    assert ended.status == 0, ended.output
    assert (tmp_path / "run" / runs.BEST).read_bytes() == (plain / runs.BEST).read_bytes()
    assert runs.read_metrics(tmp_path / "run") == runs.read_metrics(plain)


def test_a_resume_under_another_precision_says_so(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "run")
    setting, longer = ("jax_default_matmul_precision", "bfloat16"), ["--config.num_epochs=3"]
    printed = train(tmp_path, setting, longer)
    assert "warning: JAX_DEFAULT_MATMUL_PRECISION was '' and is now 'bfloat16'" in printed
