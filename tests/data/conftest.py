"""Fixtures that the tests of data share."""

import pytest

from configs import default
from tests.helpers import data_files


@pytest.fixture
def config(tmp_path):
    """`config.dataset` with data and cache in the test's own folder, so data on the machine are not found."""
    config = default.get_config().dataset
    config.data_dir = str(tmp_path / "tfds")
    config.cache_dir = str(tmp_path / "cache")
    return config


@pytest.fixture
def no_network(monkeypatch):
    """Every connection fails, except to this machine."""
    data_files.forbid_network(monkeypatch)
