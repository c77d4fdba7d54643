"""A sweep: its plan, its processes (mostly small scripts instead of `main.py`), and a sweep of real runs."""

import json
import os
import signal
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from cifar_jax.cli import arguments
from cifar_jax.comparing import sweep
from cifar_jax.config import to_json
from cifar_jax.errors import UserError
from tests.helpers import cli, runs
from tests.helpers.run_folders import config, write_run

# Scripts that replace `main.py` in most of these tests. They get the flags of a run.
SUCCEEDS = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[-1].removeprefix("--workdir="))
folder.mkdir(parents=True, exist_ok=True)
(folder / "report.json").write_text(json.dumps({"final": {"epoch": 2}}))
with open(folder / "started", "a") as file:
    print(*sys.argv[1:], file=file)
"""
WAITS = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[-1].removeprefix("--workdir="))
folder.mkdir(parents=True, exist_ok=True)
def leave(number, frame):
    (folder / "got").write_text(signal.Signals(number).name)
    sys.exit(128 + number)
signal.signal(signal.SIGINT, leave)
signal.signal(signal.SIGTERM, leave)
(folder / "waits").write_text("")
while True:
    time.sleep(0.05)
"""
DEADLINE_SECONDS = 60


def planned(folder, *names):
    return [
        sweep.Planned(str(folder / name), (f"--workdir={folder / name}",), config(num_epochs=2))
        for name in names
    ]


def wait_for(path):
    end = time.monotonic() + DEADLINE_SECONDS
    while not path.exists():
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.01)


def load(recipe, fields):
    return arguments.load_recipe(recipe, fields)


def test_recipes_are_found_in_folders_by_patterns_and_by_name(tmp_path):
    for name in ("b.py", "a.py", "default.py", "__init__.py", "notes.txt"):
        (tmp_path / name).write_text("")
    a, b = (str(tmp_path / name) for name in ("a.py", "b.py"))
    assert sweep.find_recipes([str(tmp_path)]) == [a, b]
    assert sweep.find_recipes([b, str(tmp_path / "[ab].py")]) == [b, a]
    assert sweep.find_recipes(["configs/rerun.py:runs/x"]) == ["configs/rerun.py:runs/x"]
    assert len(sweep.find_recipes([str(runs.ROOT / "configs" / "cifar100")])) == len(
        list((runs.ROOT / "configs" / "cifar100").glob("*.py"))
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no recipe in the folder"):
        sweep.find_recipes([str(tmp_path / "empty")])


def test_every_recipe_gets_every_seed_and_the_fields(tmp_path):
    recipes = [str(runs.ROOT / "configs" / name) for name in ("lenet.py", "quickstart.py")]
    plan = sweep.plan(recipes, [3, 4], ["--config.num_epochs=7"], str(tmp_path), load)
    assert [os.path.relpath(each.workdir, tmp_path) for each in plan] == [
        "lenet-seed3", "lenet-seed4", "quickstart-seed3", "quickstart-seed4",
    ]  # fmt: skip
    assert [each.config.seed for each in plan] == [3, 4, 3, 4]
    assert {each.config.num_epochs for each in plan} == {7}
    assert plan[1].flags == (
        f"--config={recipes[0]}",
        "--config.num_epochs=7",
        "--config.seed=4",
        f"--workdir={tmp_path / 'lenet-seed4'}",
    )
    (own,) = sweep.plan(recipes[:1], [], ["--config.seed=5"], str(tmp_path), load)
    assert own.workdir.endswith("lenet-seed5")


def test_recipes_of_one_name_are_told_apart_by_their_folders(tmp_path):
    text = (runs.ROOT / "configs" / "lenet.py").read_text()
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text(text)
    recipes = [str(tmp_path / "x" / "same.py"), str(tmp_path / "y" / "same.py")]
    plan = sweep.plan(recipes, [], [], "runs", load)
    assert [each.workdir for each in plan] == ["runs/x-same-seed0", "runs/y-same-seed0"]


def test_recipes_of_one_name_in_folders_of_one_name(tmp_path):
    text = (runs.ROOT / "configs" / "lenet.py").read_text()
    recipes = [
        tmp_path / name for name in ("a/x/same.py", "b/x/same.py", "c/a-x-same.py", "a-x/y.py")
    ]
    for recipe in recipes:
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(text)
    plan = sweep.plan(list(map(str, recipes)), [], [], "runs", load)
    names = [each.workdir.removeprefix("runs/").removesuffix("-seed0") for each in plan]
    above = tmp_path.name
    assert names == [f"{above}-a-x-same", "b-x-same", "c-a-x-same", "y"]
    # To tell a-x/y.py from z/y.py, its folder is added; then, however many are, it is named like a-x-y.py.
    equal = [str(tmp_path / name) for name in ("a-x/y.py", "z/y.py", "a-x-y.py")]
    with pytest.raises(
        UserError, match=r"a-x/y\.py and .*/a-x-y\.py would get the same folder: rename"
    ):
        sweep.plan(equal, [], [], "runs", load)


def test_nothing_is_begun_where_a_folder_holds_another_recipe(tmp_path):
    write_run(tmp_path / "lenet-seed0", [0.5])
    with pytest.raises(UserError, match="holds a run of another recipe"):
        sweep.plan([str(runs.ROOT / "configs" / "lenet.py")], [0], [], str(tmp_path), load)


def test_what_is_finished_is_not_begun_again(tmp_path, capfd):
    command = [sys.executable, "-c", SUCCEEDS]
    for _ in range(2):
        assert sweep.run(planned(tmp_path, "a", "b"), command) == ({}, 0)
    assert (tmp_path / "a" / "started").read_text() == f"--workdir={tmp_path / 'a'}\n"
    assert "b: finished already" in capfd.readouterr().out
    (elsewhere,) = planned(tmp_path, "b")
    (tmp_path / "b" / "config.json").write_text(to_json(elsewhere.config))
    elsewhere.config.dataset.path = "cars"
    sweep.run([elsewhere], command)
    assert "b: finished already, with dataset.path=: to train on" in capfd.readouterr().out
    # A run with more epochs than before resumes. A run with an unreadable report runs again.
    (longer, *_), damaged = planned(tmp_path, "a"), tmp_path / "b" / "report.json"
    longer.config.num_epochs = 3
    damaged.write_text("{")
    assert not longer.is_finished()
    assert not planned(tmp_path, "b")[0].is_finished()


def test_a_run_that_fails_is_told_and_the_others_go_on(tmp_path, capfd):
    script = f"""
import os, signal, sys
if "killed" in sys.argv[-1]:
    os.kill(os.getpid(), signal.SIGKILL)
if "wrong" in sys.argv[-1]:
    print("warning: first", file=sys.stderr)
    sys.exit("error: the data are not there")
{SUCCEEDS}"""
    runs_of_sweep = planned(tmp_path, "killed", "wrong", "good")
    failed, stopped = sweep.run(runs_of_sweep, [sys.executable, "-c", script])
    assert failed == {
        str(tmp_path / "killed"): "ended by SIGKILL (is there enough memory?)",
        str(tmp_path / "wrong"): "the data are not there",
    }
    assert stopped == 0
    assert runs_of_sweep[2].is_finished()
    # The sweep also passes the run's standard error through.
    assert "warning: first\nerror: the data are not there\n" in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_goes_to_the_current_run_and_ends_the_sweep(tmp_path, number):
    def interrupt():
        wait_for(tmp_path / "a" / "waits")
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    thread = threading.Thread(target=interrupt)
    thread.start()
    result = sweep.run(planned(tmp_path, "a", "b"), [sys.executable, "-c", WAITS])
    thread.join()
    assert result == ({}, number)
    assert (tmp_path / "a" / "got").read_text() == signal.Signals(number).name
    assert not (tmp_path / "b").exists()
    assert signal.getsignal(number) is before


def sweep_alone(folder, script, terminal=None):
    """Sweeps one run. Tests call it in a process of its own, some with a terminal as standard error."""
    if terminal:
        os.dup2(os.open(terminal, os.O_RDWR | os.O_NOCTTY), 2)
    sweep.run(planned(folder, "a"), [sys.executable, "-c", script])


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a process of its parent's end"
)
def test_a_sweep_that_is_killed_takes_its_run_with_it(tmp_path):
    parent = runs.context().Process(target=sweep_alone, args=(tmp_path, WAITS))
    parent.start()
    wait_for(tmp_path / "a" / "waits")
    parent.kill()
    parent.join()
    wait_for(tmp_path / "a" / "got")


def test_progress_bars_stay_where_standard_error_is_a_terminal(tmp_path):
    tells = "import os, sys; print(os.isatty(2), *os.get_terminal_size(2), file=sys.stderr)"
    reader, writer = os.openpty()
    termios.tcsetwinsize(writer, (20, 77))
    args = (tmp_path, tells, os.ttyname(writer))
    parent = runs.context().Process(target=sweep_alone, args=args)
    parent.start()
    said = b""
    while b"\n" not in said:
        said += os.read(reader, 100)
    parent.join()
    os.close(reader)
    os.close(writer)
    assert said.split() == [b"True", b"77", b"20"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A folder of two recipes (the data of one are missing), and the results of two calls of a sweep.

    A signal ends the first call in the middle of its first run. The second call resumes the sweep.
    """
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "recipes").mkdir()
    tiny = runs.ROOT.joinpath("tests", "conftest.py").read_text().split("'''")[1]
    (folder / "recipes" / "a.py").write_text(tiny)
    lacks = tiny.replace('"digits"', '"cifar10"').replace(
        "    return", f'    config.dataset.archive = "{folder}/nothing"\n    return'
    )
    (folder / "recipes" / "b.py").write_text(lacks)
    args = [
        "--mode=sweep",
        f"--recipes={folder / 'recipes'}",
        "--config.num_epochs=12",
        f"--config.dataset.cache_dir={folder / 'images'}",
        f"--workdir={folder / 'runs'}",
        f"--compiled={folder / 'compiled'}",
    ]
    stopped = runs.Started(args, folder / "log")
    wait_for(folder / "runs" / "a-seed0" / "metrics.jsonl")
    stopped.send(signal.SIGTERM)
    ended = stopped.wait()
    assert not (folder / "runs" / "compare").exists()
    return folder, ended, cli.call(folder, *args)


def test_a_stopped_sweep_saves_its_run_and_says_how_to_go_on(swept):
    folder, stopped, _ = swept
    assert stopped.status == 128 + signal.SIGTERM, stopped
    assert "SIGTERM: saved at step" in stopped.output
    assert f"--recipes={folder / 'recipes'}" in stopped.output.splitlines()[-1]
    assert "written:" not in stopped.output


def test_a_sweep_goes_on_and_names_the_run_that_failed(swept):
    folder, _, second = swept
    assert second.status == 1, second
    assert f"resuming {folder / 'runs' / 'a-seed0'}" in second.out
    assert "1 of 2 runs are finished" in second.out
    last = second.err.splitlines()[-1]
    assert last.startswith(f"error: {folder / 'runs' / 'b-seed0'}: ")
    assert f"{folder}/nothing" in last
    assert [entry["epoch"] for entry in runs.read_metrics(folder / "runs" / "a-seed0")] == [
        *range(1, 13)
    ]


def test_a_sweep_ends_with_a_comparison(swept):
    folder = swept[0]
    report = json.loads((folder / "runs" / "a-seed0" / "report.json").read_text())
    text = (folder / "runs" / "compare" / "compare.md").read_text()
    assert "1 run on digits" in text
    assert f"{100 * report['final']['test_accuracy']:.2f} %" in text


def test_what_a_sweep_cannot_begin_with_is_told_in_one_line(trained, tmp_path):
    recipes, workdir = f"--recipes={trained.recipe}", f"--workdir={tmp_path / 'runs'}"
    for args, says in (
        ((), "needs recipes and a folder"),
        ((recipes,), "needs recipes and a folder"),
        ((recipes, workdir, f"--config={trained.recipe}"), "with --recipes="),
        ((recipes, workdir, "--config=configs/cifar100"), "with --recipes="),
        ((recipes, workdir, "--config.seed=1", "--seds=1"), "did you mean '--seeds'?"),
        ((recipes, workdir, "--seeds=0,x"), "--seeds=0,x: it takes whole numbers"),
        ((recipes, workdir, "--seeds=0", "--config.seed=4"), "both choose the seed"),
        ((recipes, workdir, "--seeds=0", "--seeds=1"), "--seeds is given twice"),
        ((recipes, workdir, "--config.sed=1"), "did you mean 'config.seed'?"),
        ((recipes, workdir, "--config.batch_size=0"), "batch_size is 0"),
        ((f"--recipes={tmp_path}/none.py", workdir), "there is no recipe"),
        ((recipes, f"--workdir={trained.workdir}"), "holds a run"),
    ):
        said = trained.call("--mode=sweep", *args).refusal()
        assert says in said
        assert "\n" not in said
    assert not Path(tmp_path / "runs").exists()
