"""The same seed gives the same bits in another process and on any number of cores.

A GPU needs two XLA flags for that.
"""

import os

import jax
import numpy as np
import pytest

from cifar_jax.errors import UserError
from cifar_jax.runtime import determinism
from cifar_jax.steps import muon, whitening
from tests.helpers import runs

# Uses each kernel (convolution, pooling, batch norm, matrix product), dropout and augmentation.
FIELDS = {
    "num_epochs": 1,
    "batch_size": 32,
    "dataset.image_size": 16,
    "dataset.train_examples": 160,
    "augment.crop_padding": 2,
    "augment.flip": True,
    "model.name": "cnn",
    "model.downsample": "max_pool",
    "model.batch_norm": True,
    "model.dropout": 0.2,
    "seed": 3,
}


def _as_a_user(cores):
    """Restricts this process to these cores, with all of XLA's optimisations."""
    os.sched_setaffinity(0, cores)
    os.environ["XLA_FLAGS"] = runs.XLA_FLAGS = ""


def _on_cores(cores, args, log):
    """Runs `main.py` restricted to these cores."""
    _as_a_user(cores)
    runs.plotless_child(args, log, devices=1, point="", cache=None)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the cores cannot be chosen here")
def test_equal_runs_in_two_processes_on_other_numbers_of_cores_are_equal_to_the_bit(tmp_path):
    """Each process compiles everything itself. One sets the flags for a GPU, which a CPU ignores."""
    cores = sorted(os.sched_getaffinity(0))
    started = {}
    for name, chosen in (("one", cores[:1]), ("all", cores)):
        fields = {"dataset.cache_dir": tmp_path / "images", "deterministic": name == "all"}
        args = runs.arguments(tmp_path / name, FIELDS | fields)
        log = tmp_path / f"{name}.log"
        started[name] = runs.context().Process(target=_on_cores, args=(chosen, args, log))
        started[name].start()
    for name, process in started.items():
        process.join(runs.DEADLINE_SECONDS)
        assert process.exitcode == 0, (tmp_path / f"{name}.log").read_text()
    first, second = (runs.read_state(tmp_path / name, 5) for name in started)
    runs.assert_same_bits(first, second)
    assert runs.read_metrics(tmp_path / "one") == runs.read_metrics(tmp_path / "all")
    weights = [(tmp_path / name / runs.BEST).read_bytes() for name in started]
    assert weights[0] == weights[1]


def _large_sums_on_cores(cores, path):
    """Writes the results of long sums: over patches (whitening) and in Muon's largest matrix products."""
    _as_a_user(cores)
    jax.config.update("jax_platforms", "cpu")
    rng = np.random.default_rng(0)
    images = rng.standard_normal((200, 32, 32, 3)).astype(np.float32)
    matrices = rng.standard_normal((3, 2304, 256)).astype(np.float32)
    orthogonalized = jax.jit(lambda x: muon.newton_schulz(x, 1, np.float32))(matrices)
    sums = jax.jit(whitening.kernel)(images), orthogonalized
    path.write_bytes(b"".join(np.asarray(x).tobytes() for x in sums))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the cores cannot be chosen here")
def test_whitening_and_muon_have_the_same_bits_on_any_number_of_cores(tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    for name, chosen in (("one", cores[:1]), ("all", cores)):
        args = (chosen, tmp_path / name)
        process = runs.context().Process(target=_large_sums_on_cores, args=args)
        process.start()
        process.join(runs.DEADLINE_SECONDS)
        assert process.exitcode == 0
    assert (tmp_path / "one").read_bytes() == (tmp_path / "all").read_bytes()


@pytest.fixture
def flags(monkeypatch):
    """flags(value) sets XLA_FLAGS to `value`, enables determinism, and returns the resulting flags.

    The devices count as started only if `are_started` is true.
    """

    def enable(value, are_started=False):
        monkeypatch.setenv("XLA_FLAGS", value)
        monkeypatch.setattr(determinism.xla_bridge, "backends_are_initialized", lambda: are_started)
        determinism.enable()
        return os.environ["XLA_FLAGS"].split()

    return enable


WANTED = ["--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0"]


def test_what_a_gpu_needs_is_added_to_the_flags_of_the_user(flags):
    assert flags("") == WANTED
    assert flags("--xla_dump_to=/there") == ["--xla_dump_to=/there", *WANTED]
    assert flags(" ".join(WANTED), are_started=True) == WANTED
    assert flags("--xla_gpu_deterministic_ops") == ["--xla_gpu_deterministic_ops", WANTED[1]]


def test_flags_that_say_the_contrary_and_devices_that_are_started_are_refused(flags):
    with pytest.raises(UserError, match="needs --xla_gpu_autotune_level=0"):
        flags("--xla_gpu_autotune_level=4")
    with pytest.raises(UserError, match="needs --xla_gpu_deterministic_ops=true"):
        flags("--xla_gpu_deterministic_ops=false")
    with pytest.raises(UserError, match="comes too late"):
        flags("", are_started=True)
