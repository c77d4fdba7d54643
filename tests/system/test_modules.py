"""The package `configs` of this program in a project that has one of its own."""

import subprocess
import sys

import pytest

from tests.helpers import runs

USES_BOTH = """
import sys
if sys.argv[1] == "theirs first":
    import configs.default
import cifar_jax

print(cifar_jax.recipe("quickstart").model.name)
print(cifar_jax.recipe("mine.py").batch_size)
import configs.default
print(configs.default.VALUE, configs.__file__)
print(cifar_jax.recipe("configs/cifar100/softmax.py").model.name)
"""
MINE = """
from configs import default

def get_config():
    config = default.get_config()
    config.batch_size = 77
    return config
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").write_text("")
    (tmp_path / "configs" / "default.py").write_text("VALUE = 5")
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "program.py").write_text(USES_BOTH)
    return tmp_path


def answer(project, *args, status=0):
    environment = {"PYTHONPATH": str(runs.ROOT), "PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *args], cwd=project, env=environment, capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("order", ["theirs first", "ours first"])
def test_each_gets_its_own(project, order):
    said = answer(project, "program.py", order).splitlines()[-4:]
    assert said == ["cnn", "77", f"5 {project}/configs/__init__.py", "linear"]


def test_the_command_line_has_ours(project):
    said = answer(project, "-m", "cifar_jax", "--config", status=2)
    assert "configs/resnet20_v2.py  " in said
