"""Recipes are found by path, and those of the program by name, from any folder."""

import sys

import pytest

import cifar_jax
from cifar_jax.api import recipes
from tests.cli.test_command_line import BROKEN_RECIPES
from tests.helpers import cli, runs


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("configs/quickstart.py", "quickstart.py"),
        ("configs.quickstart", "quickstart.py"),
        ("quickstart", "quickstart.py"),
        ("cifar100/softmax", "cifar100/softmax.py"),
        ("configs.cifar100.softmax", "cifar100/softmax.py"),
        ("configs/cifar100", "cifar100"),
    ],
)
def test_recipes_of_the_program(name, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipes.resolve(name) == f"{recipes.RECIPES}/{file}"
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    assert recipes.resolve(name) == name  # a file of the user comes first


def test_patterns_and_what_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipes.resolve("configs/cifar100/cnn_*.py").startswith(recipes.RECIPES)
    for name in ("", "nothing", "configs/nothing.py", "/nothing.py"):
        assert recipes.resolve(name) == name


def test_every_listed_recipe_is_found_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, _ in recipes.list_recipes():
        if name != "configs/rerun.py":
            assert cifar_jax.recipe(name).num_epochs > 0


def test_the_command_line_finds_them_too(tmp_path):
    answer = cli.call(
        tmp_path, "--config=configs.quickstart", "--config.batch_size=0", cwd=tmp_path
    )
    assert answer.refusal() == "config: batch_size is 0, but must be at least 1"
    answer = cli.call(tmp_path, "--config", "lenet", "--config.batch_size=0", cwd=tmp_path)
    assert answer.refusal() == "config: batch_size is 0, but must be at least 1"


def test_the_recipe_of_a_run(trained):
    config = cifar_jax.recipe(f"configs/rerun.py:{trained.workdir}")
    assert config.dataset.name == "digits"


@pytest.mark.parametrize("name", BROKEN_RECIPES)
def test_broken_recipes(name, tmp_path):
    text, says = BROKEN_RECIPES[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(cifar_jax.UserError) as caught:
        cifar_jax.recipe(tmp_path / name)
    assert says in str(caught.value)


DATACLASS = """
from __future__ import annotations

import dataclasses

from configs import default


@dataclasses.dataclass
class Size:
    batch: int = 7


def get_config(batch=None):
    config = default.get_config()
    config.batch_size = int(batch or Size().batch)
    return config
"""


def test_a_recipe_with_a_dataclass_in_a_folder_with_a_colon(tmp_path):
    path = tmp_path / "a:b" / "my.py"
    path.parent.mkdir()
    path.write_text(DATACLASS)
    before = dict(sys.modules)
    assert cifar_jax.recipe(path).batch_size == 7
    assert cifar_jax.recipe(path.rename(tmp_path / "my.py")).batch_size == 7
    assert cifar_jax.recipe(f"{tmp_path}/my.py:5").batch_size == 5
    assert sys.modules == before


def test_a_field_that_is_not_there():
    config = cifar_jax.recipe(runs.ROOT / "configs/lenet.py")
    with pytest.raises(AttributeError, match="Did you mean"):
        config.batchsize = 3
