"""The package as others install it: a wheel, tried in another environment and from another folder."""

import hashlib
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers import runs

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
QUICKSTART = ["--config=configs/quickstart.py", "--config.num_epochs=1", "--compiled=off"]


def files(folder: str) -> set[str]:
    """The files below a folder of the project."""
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    others = {"README.md", "pyproject.toml", "requirements.txt"}
    for name in files("cifar_jax") | files("configs") | others:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, f"--wheel-dir={folder}", source], check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of programs of an environment that has the wheel, and what the wheel requires."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    programs = folder / "bin"
    environment = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", vars=environment))
    pip = [sys.executable, "-m", "pip", f"--python={programs}/python"]
    subprocess.run([*pip, "install", "-q", "--no-deps", wheel], check=True)
    (packages / "requirements.pth").write_text(sysconfig.get_path("purelib"))
    return programs


def run(command: list, folder: Path) -> str:
    """Standard output of a program that is started in another folder than the project's."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": runs.flags(1)}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_everything_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == files("cifar_jax") | files("configs")


def test_extras_require_what_the_files_of_requirements_say():
    wanted = (ROOT / "requirements.txt").read_text() + (ROOT / "requirements-cuda.txt").read_text()
    for extra in PROJECT["optional-dependencies"].values():
        for requirement in extra:
            assert requirement in wanted


def test_three_lines_of_python_and_the_program(installed, tmp_path):
    Image.new("RGB", (40, 20), "green").save(tmp_path / "frog.png")
    code = (
        "import cifar_jax\n"
        "network = cifar_jax.load('resnet20_v2')\n"
        "print(cifar_jax.__file__, *[f'{n} {p:.1%}' for n, p in network.predict('frog.png')], sep=', ')"
    )
    where, _, answer = run([installed / "python", "-c", code], tmp_path).strip().partition(", ")
    assert where.startswith(str(installed.parent))
    said = run([installed / "cifar-jax", "--mode=predict", "--image=frog.png"], tmp_path)
    assert said.splitlines()[1:] == [f"frog.png: {answer}"]
    assert "cifar-jax --config=configs/quickstart.py" in run(
        [installed / "cifar-jax", "--help"], tmp_path
    )


def test_the_quickstart_has_the_same_bits(installed, tmp_path):
    run([installed / "cifar-jax", *QUICKSTART, "--workdir=a"], tmp_path)
    ended = runs.run([*QUICKSTART, f"--workdir={tmp_path}/b"], tmp_path / "log")
    assert ended.status == 0, ended.output
    a, b = (hashlib.sha256((tmp_path / x / runs.BEST).read_bytes()).hexdigest() for x in ("a", "b"))
    assert a == b
