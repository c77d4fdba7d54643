"""The C++ kernels for the CPU: normalisation, the same bits with any number of threads, failed builds.

test_convolution.py tests their convolution.
"""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_jax.ops import cpu_kernels, normalization
from tests.helpers.runs import ROOT

BOUNDS = {"none": (-np.inf, np.inf), "relu": (0.0, np.inf), "relu6": (0.0, 6.0)}


@pytest.mark.parametrize("code", ["CPU kernels", "XLA on a CPU", "XLA elsewhere"])
@pytest.mark.parametrize("channels", [1, 16, 37])
@pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)
def test_normalisation_and_its_gradients_are_the_formula(channels, bounds, code, monkeypatch):
    if code != "CPU kernels":
        monkeypatch.setattr(cpu_kernels, "available", lambda *arrays: False)
    if code == "XLA elsewhere":
        monkeypatch.setattr(cpu_kernels, "on_cpu", lambda: False)
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, 2.0, size=(5, 7, 9, channels))
    mean, bias, cotangent = (
        rng.normal(size=channels),
        rng.normal(size=channels),
        rng.normal(size=x.shape),
    )
    scale = rng.uniform(0.5, 3.0, size=channels)

    def ours(x, mean, scale, bias):
        moments = normalization.moments(x, mean)
        y = normalization.normalize(x, moments[0], scale * moments[1], bias, *bounds)
        return jnp.sum(y * cotangent.astype(x.dtype)), (moments, y)

    def formula(x, mean, scale, bias):
        axes = (0, 1, 2)
        first = jnp.mean(x, axes) - jax.lax.stop_gradient(mean)
        second = jnp.mean(jnp.square(x - jax.lax.stop_gradient(mean)), axes)
        y = jnp.clip((x - first) * (scale * second) + bias, *bounds)
        return jnp.sum(y * cotangent), ((first, second), y)

    def outcome(function, dtype):
        arguments = [jnp.asarray(a, dtype) for a in (x, mean, scale, bias)]
        run = jax.jit(jax.value_and_grad(function, argnums=(0, 1, 2, 3), has_aux=True))
        (_, aux), grads = run(*arguments)
        return jax.tree.leaves((aux, grads))

    with jax.enable_x64(True):
        expected = outcome(formula, jnp.float64)
    for found, want in zip(outcome(ours, jnp.float32), expected, strict=True):
        np.testing.assert_allclose(found, want, rtol=0, atol=3e-5 * np.abs(want).max())


def test_nan_is_passed_on():
    x = np.zeros((4, 3), np.float32)
    x[2, 1] = np.nan
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    y, vjp = jax.vjp(lambda x: normalization.normalize(x, zero, one, zero, 0.0, 6.0), x)
    assert np.isnan(y[2, 1])
    assert all(np.isnan(moment[1]) for moment in normalization.moments(x, zero))
    assert np.isnan(vjp(jnp.full_like(y, np.nan))[0]).any() or np.isnan(y).any()


DIGEST = """
import hashlib, jax, numpy as np
from cifar_jax.ops import cpu_kernels
assert cpu_kernels.available()
rng = np.random.default_rng(0)
digest = hashlib.sha256()
for depthwise, channels, stride in ((False, 48, 2), (False, 48, 1), (True, 40, 2)):
    images = rng.normal(size=(16, 32, 32, channels)).astype("float32")
    kernel = rng.normal(size=(3, 3, 1 if depthwise else channels, channels)).astype("float32")
    out, vjp = jax.vjp(
        lambda x, w: cpu_kernels.convolve(x, w, stride, ((1, 1), (1, 1)), depthwise),
        images,
        kernel,
    )
    for array in (out, *vjp(out), cpu_kernels.channel_moments(images, images[0, 0, 0])):
        digest.update(np.asarray(array).tobytes())
print(digest.hexdigest())
"""


def test_the_number_of_threads_changes_no_bit():
    def digest(cpus: set[int]) -> str:
        limit = f"import os; os.sched_setaffinity(0, {cpus})\n"
        return subprocess.run(
            [sys.executable, "-c", limit + DIGEST],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    cpus = os.sched_getaffinity(0)
    assert digest(set(list(cpus)[:1])) == digest(cpus)


@pytest.fixture
def unbuilt(monkeypatch, tmp_path):
    """An empty cache folder, as if the kernels had never been built. Returns its parent folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cpu_kernels, "_register", lambda version, library: None)  # once per process
    cpu_kernels.version.cache_clear()
    yield tmp_path
    cpu_kernels.version.cache_clear()


@pytest.mark.parametrize(
    ("compiler", "said"),
    [
        ("/nowhere/g++", "/nowhere/g++ cannot compile the CPU kernels (No such file or directory)"),
        ("false", "false cannot compile the CPU kernels (Command"),
        ("sh -c :", "sh -c : made no library of the CPU kernels"),
        ("g++ -I'/opt/my dir", "g++ -I'/opt/my dir cannot compile the CPU kernels (No closing"),
        (r"sh -c 'printf \\351t\\351 >&2; false'", "(\N{REPLACEMENT CHARACTER}t"),
    ],
)
def test_without_a_compiler_xla_convolves_and_a_line_says_so(
    unbuilt, monkeypatch, capsys, compiler, said
):
    monkeypatch.setenv("CXX", compiler)
    assert not cpu_kernels.available()
    assert not cpu_kernels.available()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ")
    assert said in line
    assert not list(unbuilt.rglob("*.so"))


def test_a_cache_folder_that_cannot_be_made_gives_a_warning(unbuilt, capsys):
    (unbuilt / "cache").write_text("a file, not a folder")
    assert not cpu_kernels.available()
    assert "cannot write" in capsys.readouterr().err


def test_the_kernels_are_compiled_once_and_again_if_their_file_is_damaged(unbuilt, monkeypatch):
    # Counts its calls. Its output is what follows -o.
    compiler = unbuilt / "c++"
    compiler.write_text(
        '#!/bin/sh\necho called >> "$0.log"; while [ "$1" != -o ]; do shift; done; '
        f'echo {" ".join(cpu_kernels._NAMES)} > "$2"'
    )
    compiler.chmod(0o755)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", f"{unbuilt}:/usr/bin:/bin")

    def times_called():
        for _ in range(2):
            cpu_kernels.version.cache_clear()
            assert cpu_kernels.available()
        return len(compiler.with_suffix(".log").read_text().splitlines())

    assert times_called() == 1
    (library,) = unbuilt.rglob("*.so")
    whole = library.read_text()
    assert set(whole.split()) == set(cpu_kernels._NAMES)
    library.write_text(whole[:-20])
    assert times_called() == 2
    assert library.read_text() == whole
    # An older version kept no digest. Its library is used where there is no compiler.
    library.with_suffix(".sha256").unlink()
    assert times_called() == 3
    library.with_suffix(".sha256").unlink()
    monkeypatch.setenv("PATH", str(unbuilt / "cache"))
    assert times_called() == 3
