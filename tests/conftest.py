"""Fixtures for all tests: a small config, and a small run that was trained with `main.py`."""

import contextlib
import dataclasses
import gc
import os
from pathlib import Path

import pytest

from cifar_jax.models import mobilenet_v2
from configs import default
from tests.helpers import browser, cli, runs

# For JAX in this process and in those that it starts.
os.environ["XLA_FLAGS"] = runs.XLA_FLAGS
gc.set_threshold(100_000)  # as in main.py

RECIPE = '''"""Softmax regression on small digits, for tests."""

from configs import default


def get_config():
    config = default.get_config()
    config.num_epochs = 1
    config.batch_size = 32
    config.dataset.name = "digits"
    config.dataset.image_size = 8
    config.augment.crop_padding = 1
    config.model.name = "linear"
    config.lr_schedule.boundaries = ()
    return config
'''


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A finished run, and a way to call `main.py` on it."""

    folder: Path
    recipe: Path
    workdir: Path

    def call(self, *args, cwd=runs.ROOT, draws=False) -> cli.Answer:
        return cli.call(self.folder, *(str(arg) for arg in args), cwd=cwd, draws=draws)


@pytest.fixture
def config():
    """A config of softmax regression. Only the order of the examples is random."""
    config = default.get_config()
    config.num_epochs = 2
    config.batch_size = 8
    config.augment.crop_padding = 0
    config.augment.flip = False
    config.model.name = "linear"
    config.optimizer.weight_decay = 0.0
    config.lr_schedule.name = "constant"
    config.lr_schedule.boundaries = ()
    return config


@pytest.fixture
def without_rights(tmp_path, monkeypatch):
    """In the `with` of without_rights(), root's rights are given up. The current folder is `tmp_path`."""
    # Folders above it are root's alone, so tests need relative paths.
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)

    @contextlib.contextmanager
    def given_up():
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(user)

    return given_up


@pytest.fixture
def shallow_mobilenet(monkeypatch):
    """MobileNetV2 with its first three stages, which have a block of every kind: it compiles faster."""
    monkeypatch.setattr(mobilenet_v2, "STAGES", mobilenet_v2.STAGES[:3])


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> TrainedRun:
    """One epoch of softmax regression on digits of 8x8 pixels. Tests must not change it."""
    return train_small(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A temporary folder for all tests of a module."""
    return tmp_path_factory.mktemp("module")


@pytest.fixture(scope="module")
def opened():
    """opened(path) opens a file in the module's browser: see tests/helpers/browser.py."""
    with browser.started() as opened:
        yield opened


@pytest.fixture(scope="module")
def fields(request, folder) -> dict:
    """The module's FIELDS, with a cache of images in the module's folder."""
    return request.module.FIELDS | {"dataset.cache_dir": folder / "images"}


def train_small(folder: Path) -> TrainedRun:
    """Trains RECIPE with `main.py`, in a folder."""
    folder.mkdir(exist_ok=True)
    recipe = folder / "tiny.py"
    recipe.write_text(RECIPE)
    run = TrainedRun(folder, recipe, folder / "run")
    answer = run.call(f"--config={recipe}", f"--workdir={run.workdir}", draws=True)
    assert answer.status == 0, answer
    assert "warning" not in answer.out + answer.err
    return run


def pytest_collection_modifyitems(items):
    """Puts the files of long tests first: at the end, the other process would wait for them."""
    items.sort(key=lambda item: item.path.name not in ("test_notebook.py", "test_package.py"))


def pytest_configure(config):
    """In several processes, keeps the order of files: those with few tests, here the slow ones, not last."""
    if hasattr(config.option, "loadscopereorder"):  # pytest-xdist is there
        config.option.loadscopereorder = False


def pytest_sessionfinish(session):
    """If CIFAR_JAX_NO_SKIPS is set, a skipped test fails the test run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    # With several processes (pytest-xdist), only the reporting one knows all results.
    if os.environ.get("CIFAR_JAX_NO_SKIPS") and reporter and reporter.stats.get("skipped"):
        reporter.write_line("tests were skipped, and CIFAR_JAX_NO_SKIPS is set", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
