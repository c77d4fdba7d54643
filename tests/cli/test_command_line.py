"""The command line as users meet it: a mistake gives a message and an exit status, no stack trace."""

import dataclasses
import json
import os
import shutil
import sys
import types

import jax
import numpy as np
import pytest
from PIL import Image

from cifar_jax.cli import command
from cifar_jax.inference import weights
from cifar_jax.runtime import parallel, settings
from tests.helpers import runs

# Recipe files, each with a mistake, and what the message must say.
BROKEN_RECIPES = {
    "syntax.py": ("def get_config(:\n", "SyntaxError"),
    "imports.py": ("import nothing_of_the_kind\n", "line 1: ModuleNotFoundError"),
    "raises.py": ("def get_config():\n    raise ValueError('two\\nlines')\n", "line 2: ValueError"),
    "os_error.py": ("def get_config():\n    open('/not/there')\n", "line 2: FileNotFoundError"),
    "nothing.py": ("def get_config():\n    pass\n", "get_config() returns NoneType"),
    "no_function.py": ("x = 1\n", "has no function get_config"),
    "binary.py": ("\0\1", "null bytes"),
    "exits.py": ("import sys\nsys.exit(0)\n", "ends the program"),
    "no_recipe.txt": ("hello", "Python file (.py)"),
    "misspelt.py": (
        "from configs import default\n"
        "def get_config():\n"
        "    config = default.get_config()\n"
        "    config.bach_size = 3\n"
        "    return config\n",
        "there is no field bach_size; did you mean 'batch_size'?",
    ),
    "type.py": (
        "from configs import default\n"
        "def get_config():\n"
        "    config = default.get_config()\n"
        "    config.batch_size = 'big'\n"
        "    return config\n",
        "line 4: TypeError",
    ),
}

# Wrong flags after a good --config, and what the message must say.
WRONG_FIELDS = {
    "--config.bach_size=3": "did you mean 'config.batch_size'?",
    "--config.optimizer.learning_rate=1": "did you mean 'config.lr_schedule.learning_rate'?",
    "--config.batch_size=big": "takes a whole number",
    "--config.batch_size=0": "batch_size is 0, but must be at least 1",
    "--config.batch_size": "Missing value",
    "--config.augment.flip=maybe": "takes true or false",
    "--noconfig.augment.flip=True": "--noconfig.augment.flip=True does not take an argument",
    "--config.ema_decay=x": "takes a number",
    "--config.ema_decay=nan": "ema_decay is nan",
    "--config.optimizer=sgd": "--config.optimizer is a group of fields",
    "--config.optimizer.momentum.x=1": "there is no field --config.optimizer.momentum.x",
    "--config.lr_schedule.boundaries=(1,'a')": "lr_schedule.boundaries",
    "--config.lr_schedule.boundaries=(1": "lr_schedule.boundaries",
    "--config.dataset.mean=1": "dataset.mean is [1], but takes three numbers",
    "--config.model.name=linea": 'did you mean "linear"',
    "--image=frog.png": "--image is for --mode=predict",
    "--weights=best": "--weights is for --mode=eval, --mode=predict and --mode=export",
    "--wokdir=x": "workdir",
    "--workdir=x": "only --mode=compare takes several",
    "--workdir=": "--workdir is empty",
    "--compiled=": "--compiled is empty",
    "--config=configs/lenet.py": "--config is given twice",
    "--format=onnx": "--format is for --mode=export",
    "--seeds=1": "--seeds is for --mode=sweep",
    "--target_accuracy=0.9": "--target_accuracy is for --mode=compare and --mode=sweep",
    "--nonsense": "nonsense",
    "--mode=typo": "train|eval|predict",
    "--json=maybe": "takes true or false",
    "typo": "unexpected argument 'typo'",
}


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the trained run, for tests that change it."""
    folder = tmp_path / "copy"
    shutil.copytree(trained.workdir, folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two pictures and a file that is not a picture."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("a.png", "c.png"):
        Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).save(folder / name)
    (folder / "b.png").write_text("this is not a picture")
    return folder


def everything_in(folder):
    """The path of everything below a folder, with the content of files."""
    return sorted(folder.rglob("*")), runs.digests(folder)


def test_a_run_leaves_what_people_read(trained):
    assert {path.name for path in trained.workdir.iterdir()} == {
        "config.json", "metrics.jsonl", "history.png", "first_batch.png", "confusion_latest.png",
        "report.json", "best.safetensors", "checkpoints", "tensorboard",
    }  # fmt: skip
    assert len(list((trained.workdir / "tensorboard").iterdir())) == 1


def test_without_a_config_the_recipes_are_listed_with_a_line_each(trained):
    for args in ((), ("--config=",), ("--config",)):
        first, *lines = trained.call(*args).refusal().splitlines()
        assert "--config=FILE" in first
        listed = dict(line.split(maxsplit=1) for line in lines)
        assert "configs/quickstart.py" in listed
        assert "configs/default.py" not in listed


def test_help_is_short_and_names_every_flag(trained):
    for flag in ("--help", "-h"):
        answer = trained.call(flag)
        assert answer.status == 0
        assert len(answer.out.splitlines()) <= 30
        for name in ("mode", "config", "workdir", "weights", "image", "json"):
            assert f"--{name}" in answer.out


def test_help_needs_no_docstring_and_names_the_installed_program(monkeypatch, capsys):
    monkeypatch.setattr(command, "__doc__", None)  # as of python -OO
    monkeypatch.setattr(sys, "argv", ["/usr/bin/cifar-jax", "--help"])
    monkeypatch.setattr(command.app, "run", lambda main, flags_parser: flags_parser(sys.argv))
    with pytest.raises(SystemExit) as left:
        command.run()
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert "cifar-jax --config=" in said
    assert "main.py" not in said


@pytest.mark.parametrize("name", BROKEN_RECIPES)
def test_a_broken_recipe_is_told_in_one_line(trained, tmp_path, name):
    text, says = BROKEN_RECIPES[name]
    (tmp_path / name).write_text(text)
    answer = trained.call(f"--config={tmp_path / name}", f"--workdir={tmp_path / 'run'}")
    assert says in answer.refusal()
    assert "\n" not in answer.refusal()
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_is_not_there(trained):
    assert (
        "did you mean 'configs/quickstart.py'?"
        in trained.call("--config=configs/quickstat.py", "--config.seed=1").refusal()
    )
    assert "is a folder" in trained.call("--config=configs/").refusal()
    assert "takes 0 positional arguments" in trained.call(f"--config={trained.recipe}:x").refusal()


@pytest.mark.parametrize("flag", WRONG_FIELDS)
def test_a_wrong_flag_is_told_in_one_line(trained, tmp_path, flag):
    workdir = tmp_path / "run"
    answer = trained.call(f"--config={trained.recipe}", f"--workdir={workdir}", flag)
    assert WRONG_FIELDS[flag] in answer.refusal()
    assert "\n" not in answer.refusal()
    assert "the recipe" not in answer.refusal()
    assert not workdir.exists()


def test_several_wrong_fields_are_told_at_once(trained):
    fields = ("--config.batch_size=0", "--config.num_epochs=0", "--config.optimizer.name=sdg")
    said = trained.call("--config", trained.recipe, *fields).refusal()
    for name in ("batch_size", "num_epochs", "optimizer.name"):
        assert name in said
    assert len(said.splitlines()) == 3


def test_every_wrong_flag_is_told_at_once(trained):
    flags = {
        "--config.bach_size=3": "did you mean 'config.batch_size'?",
        "--config.learning_rate=1": "did you mean 'config.lr_schedule.learning_rate'?",
        "--config.num_epochs=many": "flag --config.num_epochs=many: it takes a whole number",
        "--config.ema_decay=3.0": "config: ema_decay is 3.0",
        "--config.optimizer.name=sdg": "config: optimizer.name is 'sdg'",
        "--wokdir=x": "wokdir",
        "typo": "unexpected argument 'typo'",
    }
    right = ("--config.seed", "1", "--config.optimizer.clip_norm", "0.5")
    said = trained.call(f"--config={trained.recipe}", *right, *flags).refusal()
    for words in flags.values():
        assert sum(words in line for line in said.splitlines()) == 1, (words, said)
    assert len(said.splitlines()) == len(flags)


def test_a_field_before_the_recipe(trained):
    for args in (["--config.seed=1", f"--config={trained.recipe}"], ["--config.seed=1"]):
        assert "put --config=RECIPE before it" in trained.call(*args).refusal()


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ("seed=7", "seed: 0 -> 7"),
        ("num_epochs=2 --config.batch_size=16", "batch_size: 32 -> 16"),
        ("augment.cutout=2", "augment.cutout: 0 -> 2"),
    ],
)
def test_a_run_of_another_recipe_is_refused_and_left_as_it_is(trained, field, named):
    before = everything_in(trained.workdir)
    flags = f"--config.{field}".split()
    answer = trained.call(f"--config={trained.recipe}", *flags, f"--workdir={trained.workdir}")
    assert named in answer.refusal()
    assert f"--config.init_from={trained.workdir}" in answer.refusal()
    assert everything_in(trained.workdir) == before


def test_a_longer_run_goes_on_and_a_shorter_one_is_refused(trained, copy):
    common = (f"--config={trained.recipe}", f"--workdir={copy}")
    answer = trained.call(*common, "--config.num_epochs=2")
    assert answer.status == 0, answer
    before = everything_in(copy)
    assert [entry["epoch"] for entry in runs.read_metrics(copy)] == [1, 2]
    assert "num_epochs: 2 -> 1" in trained.call(*common).refusal()
    assert everything_in(copy) == before


def test_what_is_not_part_of_the_recipe_may_differ(trained, copy):
    fields = ("--config.steps_per_dispatch=3", "--config.checkpoint_minutes=1")
    answer = trained.call(f"--config={trained.recipe}", *fields, f"--workdir={copy}")
    assert answer.status == 0, answer
    assert "already" in answer.out


def test_a_workdir_that_is_none(trained, tmp_path):
    assert "no folder" in trained.call(f"--workdir={tmp_path / 'nothing'}").refusal()
    assert "no run in" in trained.call(f"--workdir={tmp_path}").refusal()
    common = f"--config={trained.recipe}"
    assert "is a file" in trained.call(common, f"--workdir={trained.recipe}").refusal()
    inside = f"--workdir={trained.recipe}/run"
    assert "cannot make" in trained.call(common, inside).refusal()


@pytest.mark.parametrize("text", [b"", b'{"seed": ', b"[1]", b'{"sed": 1}', b"\xff\xfe\x00"])
def test_a_damaged_config_of_a_run_is_told_in_every_mode(trained, copy, pictures, text):
    (copy / "config.json").write_bytes(text)
    before = everything_in(copy)
    image = f"--image={pictures}"
    for args in ((), (f"--config={trained.recipe}",), ("--mode=eval",), ("--mode=predict", image)):
        said = trained.call(*args, f"--workdir={copy}").refusal()
        assert "config.json" in said
        assert "\n" not in said
    assert everything_in(copy) == before


def test_a_workdir_whose_name_is_not_utf8(trained, tmp_path):
    workdir = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    said = trained.call(f"--config={trained.recipe}", f"--workdir={workdir}").refusal()
    assert said.startswith("the workdir '")
    assert said.endswith("caf\\udce9' is not valid UTF-8: rename it")
    assert not os.path.exists(workdir)


def test_epochs_beyond_every_step_that_is_counted(trained, tmp_path):
    # The backbone of this network is empty, and its head is trained from the first step on.
    fields = {
        "transfer.frozen_epochs": 1e9,
        "lr_schedule.name": "step",
        "lr_schedule.boundaries": (1e9,),
    }
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    init = f"--config.init_from={trained.workdir}"
    answer = trained.call(
        f"--config={trained.recipe}", *flags, init, f"--workdir={tmp_path / 'run'}"
    )
    assert answer.status == 0, answer


def test_a_new_run_that_cannot_start_leaves_no_folder(trained, tmp_path):
    archive = "--config.dataset.archive=nothing"
    answer = trained.call("--config=" + str(trained.recipe), archive, cwd=tmp_path)
    assert "archive" in answer.refusal()
    assert list((tmp_path / "runs").iterdir()) == []


def test_predict_answers_for_the_good_pictures_and_names_the_others(trained, pictures):
    images = (f"--image={pictures}", "--image=/not/there.png")
    common = ("--mode=predict", f"--workdir={trained.workdir}", *images)
    answer = trained.call(*common)
    assert answer.status == 1
    assert [line.partition(": ")[0] for line in answer.out.splitlines()] == [
        str(pictures / "a.png"),
        str(pictures / "c.png"),
    ]
    errors = answer.err.splitlines()
    assert len(errors) == 2
    assert str(pictures / "b.png") in errors[0]
    assert "/not/there.png" in errors[1]

    as_json = trained.call(*common, "--json")
    assert as_json.status == 1
    assert [p["image"] for p in as_json.json()["predictions"]] == [
        str(pictures / "a.png"),
        str(pictures / "c.png"),
    ]
    assert len(as_json.json()["errors"]) == 2


def test_predict_with_good_pictures_only_ends_well(trained, pictures):
    weights_alone = f"--weights={trained.workdir / 'best.safetensors'}"
    answer = trained.call(
        "--mode=predict", weights_alone, f"--image={pictures / 'a.png'}", "--json"
    )
    assert (answer.status, answer.err) == (0, "")
    (prediction,) = answer.json()["predictions"]
    assert len(prediction["classes"]) == 5


def test_predict_without_weights_uses_the_bundled_network(trained, pictures, tmp_path):
    output = tmp_path / "out.png"
    image = f"--image={pictures / 'a.png'}"
    answer = trained.call("--mode=predict", image, f"--output={output}")
    assert (answer.status, answer.err) == (0, "")
    first, second, third = answer.out.splitlines()
    assert first == "Using the bundled resnet20_v2 (trained on cifar10):"
    assert second.startswith(str(pictures / "a.png"))
    assert third == f"written: {output}"
    assert Image.open(output).format == "PNG"
    named = trained.call("--mode=predict", image, "--weights=resnet20_v2", "--json").json()
    probability = named["predictions"][0]["classes"][0]["probability"]
    assert f"{probability:.1%}" in second


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--mode=predict"], "needs a picture"),
        (["--mode=predict", "--image=PICTURES", "--output=EMPTY"], "end with .png"),
        (["--mode=predict", "--image=PICTURES", "--output=EMPTY/no/x.png"], "there is no folder"),
        (["--mode=predict", "--image=PICTURES", "--weights=best"], "needs a --workdir"),
        (["--mode=predict", "--image=PICTURES", "--weights=newest"], "best, latest, a file or"),
        (["--mode=predict", "--image=PICTURES", "--workdir=EMPTY"], "no run in"),
        (["--mode=predict", "--image=EMPTY", "--workdir=RUN"], "no pictures in the folder"),
        (["--mode=eval", "--weights=best"], "needs a --workdir"),
        (["--mode=eval", "--workdir=EMPTY"], "no run in"),
        # As of a shell's variable that is not set.
        (["--mode=eval", "--workdir="], "--workdir is empty"),
        (["--mode=eval", "--weights", ""], "--weights is empty"),
        (["--mode=predict", "--image=PICTURES", "--image="], "--image is empty"),
        (["--mode=predict", "--image=PICTURES", "--output="], "--output is empty"),
        (["--mode=eval", "--weights=RUN", "--weights", "EMPTY"], "--weights is given twice"),
        (["--mode=eval", "--mode=train", "--workdir=RUN"], "--mode is given twice"),
        (["--mode=eval", "--config=RECIPE", "--config.init_from="], "--config.init_from is empty"),
        (["--mode=eval", "--weights=EMPTY"], "is a folder without best.safetensors"),
        (["--mode=eval", "--weights=PICTURES/b.png"], "neither a safetensors"),
        (
            ["--mode=eval", "--workdir=RUN", "--config=RECIPE", "--config.eval_batch_size=0"],
            "eval_batch_size",
        ),
    ],
)
def test_eval_and_predict_say_what_they_lack(trained, pictures, tmp_path, args, says):
    places = {
        "PICTURES": pictures,
        "RUN": trained.workdir,
        "EMPTY": tmp_path,
        "RECIPE": trained.recipe,
    }
    for name, path in places.items():
        args = [arg.replace(f"={name}", f"={path}") for arg in args]
    answer = trained.call(*args)
    assert says in answer.refusal()
    assert "\n" not in answer.refusal()
    assert answer.out == ""


def test_damaged_or_missing_weights_of_a_run(trained, copy):
    file = copy / "best.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    said = trained.call("--mode=eval", f"--workdir={copy}").refusal()
    assert "best.safetensors" in said
    assert "\n" not in said
    file.unlink()
    assert "no best.safetensors yet" in trained.call("--mode=eval", f"--workdir={copy}").refusal()


def test_eval_prints_json_alone_and_adds_to_the_report(trained, copy):
    trained_report = json.loads((copy / "report.json").read_text())
    answer = trained.call("--mode=eval", f"--workdir={copy}", "--json", draws=True)
    assert answer.status == 0, answer
    result = answer.json()
    assert result["images"] == 360
    assert result["accuracy"] == trained_report["test"]["accuracy"]
    report = json.loads((copy / "report.json").read_text())
    assert report.pop("eval")["best"]["accuracy"] == result["accuracy"]
    assert report == trained_report
    assert (copy / "confusion_best.png").exists()
    assert (copy / "eval" / "index.html").exists()

    (copy / "report.json").write_text("{")
    assert "report.json" in trained.call("--mode=eval", f"--workdir={copy}").refusal()


def test_weights_of_other_classes_are_not_evaluated(trained, tmp_path):
    found = weights.load(trained.workdir / "best.safetensors")
    path = tmp_path / "other.safetensors"
    weights.save(path, dataclasses.replace(found, class_names=tuple("abcdefghij")))
    said = trained.call("--mode=eval", f"--weights={path}").refusal()
    assert "a, b, c" in said
    assert "0, 1, 2" in said


@pytest.mark.parametrize("error", [ValueError, parallel.RuntimeFailed])
def test_a_process_of_several_that_loses_another_says_so_and_leaves(error, monkeypatch, capsys):
    def mode(args):
        raise error("UNKNOWN: Gloo AllGather failed: Connection closed by peer")

    def leave(status):
        raise SystemExit(status)

    args = types.SimpleNamespace(
        mode="train",
        compiled="",
        distributed=False,
        coordinator_address=None,
        num_processes=None,
        process_id=None,
    )
    monkeypatch.setattr(command.flags, "FLAGS", args)
    monkeypatch.setattr(command, "MODES", {"train": mode})
    monkeypatch.setattr(command.compile_cache, "enable", lambda folder: None)
    monkeypatch.setattr(parallel, "has_others", lambda: True)
    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit) as left:
        command.main([])
    assert left.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: another process of this run died (UNKNOWN: Gloo AllGather")
    # Alone, such an error is none of ours.
    monkeypatch.setattr(parallel, "has_others", lambda: False)
    with pytest.raises(error):
        command.main([])


@pytest.mark.parametrize(
    "error", [RuntimeError("no plug-in\nand more"), AssertionError()], ids=repr
)
def test_devices_that_are_not_there_are_told_in_one_line(error, monkeypatch):
    def devices():
        raise error

    assert parallel.why_no_devices(error) == ""
    monkeypatch.setattr(jax, "devices", devices)
    with settings.restored(["jax_platforms"]):
        jax.config.update("jax_platforms", "cuda")
        told = parallel.why_no_devices(error)
    assert f"of JAX_PLATFORMS=cuda{' (no plug-in)' if str(error) else ''}: unset" in told


def test_deterministic_comes_before_the_devices_start(trained, tmp_path):
    args = [f"--config={trained.recipe}", f"--workdir={tmp_path / 'run'}"]
    ended = runs.run([*args, "--config.deterministic=True"], tmp_path / "log")
    assert ended.status == 0, ended.output
