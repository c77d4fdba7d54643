"""Every flag with every mode: it is used, or refused in one line. None is ignored."""

import ast
import types

import pytest

from cifar_jax import config as config_lib
from cifar_jax.cli import MODES, arguments
from cifar_jax.errors import UserError
from configs import default
from tests.helpers.runs import ROOT

# A value of each flag other than its default.
VALUES = {
    "config": object(),
    "workdir": "runs/a",
    "weights": "best",
    "image": ["frog.png"],
    "fit": "crop",
    "format": "onnx",
    "output": "out",
    "json": True,
    "recipes": ["configs"],
    "seeds": ["0"],
    "target_accuracy": 0.0,
    "compiled": "off",
    "distributed": True,
    "coordinator_address": "localhost:1234",
    "num_processes": 1,
    "process_id": 0,
}
UNSET = {
    "config": None,
    "image": [],
    "json": False,
    "recipes": [],
    "seeds": [],
    "distributed": False,
}


def flags_of_the_command() -> set[str]:
    calls = [
        node
        for node in ast.walk(ast.parse((ROOT / "cifar_jax/cli/command.py").read_text()))
        if isinstance(node, ast.Call)
    ]
    return {call.args[0].value for call in calls if "DEFINE" in ast.unparse(call.func)} - {"mode"}


def given(mode: str, **flags) -> types.SimpleNamespace:
    """What absl makes of a command line with these flags."""
    unset = {
        name: UNSET.get(name, None if name in ("fit", "format", "num_processes") else "")
        for name in VALUES
    }
    unset |= {"target_accuracy": None, "coordinator_address": None, "process_id": None}
    return types.SimpleNamespace(**unset | {"mode": mode} | flags)


def test_the_table_has_every_flag_and_only_modes_that_exist():
    assert flags_of_the_command() == set(VALUES) == set(arguments.USED_BY)
    assert {mode for modes in arguments.USED_BY.values() for mode in modes} == set(MODES)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("flag", VALUES)
def test_a_flag_is_used_or_refused(mode, flag):
    arguments._check_mode(given(mode))
    args = given(mode, **{flag: VALUES[flag]})
    if mode in arguments.USED_BY[flag]:
        arguments._check_mode(args)
        return
    with pytest.raises(UserError) as caught:
        arguments._check_mode(args)
    assert f"--{flag}" in str(caught.value)
    assert mode in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_current_folder_that_is_deleted_is_told_in_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    with pytest.raises(SystemExit) as left:
        arguments.parse(["main.py", "--config=configs/quickstart.py"], "")
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: the current folder does not exist any more\n"


def test_home_is_expanded_behind_the_equals_sign(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    typed = ["main.py", "--workdir=~/runs/a", "--image=~", "--config.seed=~", "--weights=a~b"]
    expanded = ["main.py", "--workdir=/home/ada/runs/a", "--image=/home/ada", *typed[3:]]
    assert arguments._with_paths(typed) == expanded


def test_home_is_expanded_in_every_field_that_is_a_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    names = {
        "init_from",
        "profile",
        *(f"dataset.{x}" for x in ("archive", "cache_dir", "data_dir", "path")),
    }
    config = default.get_config()
    flat = {name: "~/x" for name, field in default.FIELDS.items() if field.default == ""}
    with config.unlocked():
        config.update_from_flattened_dict(flat)
    config_lib.expand_home(config, default.FIELDS)
    values = config_lib.flatten(config)
    assert {name for name, value in values.items() if value == "/home/ada/x"} == names
