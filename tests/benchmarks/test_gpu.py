"""The parts of the GPU benchmark, tried on a CPU with tiny sizes; what fails or is too slow is said."""

import os
import runpy
import sys
import time

import jax
import pytest

from benchmarks import driver, gpu
from tests.helpers import runs


def forked(bench, name, *command, kill_at="", environment=None) -> str:
    """`Bench.run`, in a process that need not import everything."""
    log = bench.folder / "logs" / f"{name}.txt"
    log.parent.mkdir(exist_ok=True)
    log.write_text("")
    process = runs.context().Process(target=_child, args=(command, log))
    process.start()
    while process.is_alive() and not (kill_at and kill_at in log.read_text()):
        time.sleep(0.02)
    process.kill()
    process.join()
    assert process.exitcode == 0 or kill_at in log.read_text(), log.read_text()
    return log.read_text()


def _child(command, log):
    for number in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), number)
    sys.stdout.reconfigure(line_buffering=True)
    runs.draw_nothing()
    jax.config.update("jax_platforms", "cpu")
    is_module = command[0] == "-m"
    sys.argv = list(command[is_module:])
    if is_module:
        runpy.run_module(command[1], run_name="__main__")
    else:
        runpy.run_path(str(runs.ROOT / command[0]), run_name="__main__")


def rows(path):
    """The rows of a table, without its head."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("| ")]
    return [line.strip("| ").split(" | ") for line in lines[2:]]


def test_every_part_of_our_own_leaves_its_table(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(gpu.Bench, "run", forked)
    parts = "starts,whole,exact,rival"
    args = gpu.arguments([f"--output={tmp_path}", "--small", f"--parts={parts}"])
    status = driver.run_command(gpu.measure, args)
    out, err = capfd.readouterr()
    assert status == 0, out + err
    assert [line for line in out.splitlines() if line.startswith("## ")] == [
        f"## {part}" for part in parts.split(",")
    ]
    first, second = rows(tmp_path / "starts.md")
    assert (first[1], second[1]) == ("first", "second")
    assert " s" in first[2]
    assert float(first[4].replace(",", "")) > 0
    (trained,) = rows(tmp_path / "whole.md")
    assert trained[1] == "2"
    assert (tmp_path / "whole_best.safetensors").exists()
    plain, resumed, equal, classes = rows(tmp_path / "exact.md")
    assert plain[1].startswith(resumed[1])
    assert equal[1] == "yes"
    assert "resuming" in (tmp_path / "logs" / "exact_resumed.txt").read_text()
    assert classes[1].startswith("0 of 64 images")


@pytest.fixture
def bench(tmp_path):
    made = gpu.Bench(tmp_path, tmp_path, gpu.small(), "")
    made.deadline = time.perf_counter() + 60
    return made


def test_the_table_of_another_benchmark_is_taken_over(bench, monkeypatch):
    said = "machine\n\n| side | runs |\n| --- | --- |\n| ours | 30 |\n"
    commands = []
    monkeypatch.setattr(bench, "run", lambda *command, **_: commands.append(command) or said)
    assert list(gpu.speedrun(bench)) == [(("side", "runs"), [("ours", "30")])]
    assert list(gpu.pytorch(bench)) == [(("side", "runs"), [("ours", "30")])]
    modules = [(command[2], command[3]) for command in commands]
    assert modules == [
        ("benchmarks.speedrun", "--device=cpu"),
        ("benchmarks.against_pytorch", "--device=cpu"),
    ]


def test_steps_are_measured_with_each_flag(bench, monkeypatch):
    answers = iter(['logged\n{"first_call": 2.0, "step": [0.25, 0.5, 0.5]}'])
    environments = []
    monkeypatch.setattr(
        bench, "run", lambda *_, environment: environments.append(environment) or next(answers)
    )
    (table,) = gpu.flags(bench)
    assert [environment["XLA_FLAGS"] for environment in environments] == list(gpu.small().xla)
    assert table[1] == [("lenet", gpu.small().xla[0], "2.00", "500", "16.0")]


def test_a_program_that_fails_or_is_too_slow_is_a_row(bench, monkeypatch):
    with pytest.raises(gpu.Failed, match="failed: no card"):
        bench.run("fails", "-c", "raise SystemExit('no card')")
    waits = "import time; print('epoch 2/3'); time.sleep(60)"
    assert bench.run("killed", "-c", waits, kill_at="epoch 2/") == "epoch 2/3\n"
    bench.deadline = time.perf_counter() + 0.2
    with pytest.raises(gpu.Failed, match="not done when the time"):
        bench.run("slow", "-c", "import time; time.sleep(60)")
    assert list(gpu.speedrun(bench)) == [
        (("speedrun",), [("not done when the time of this part was over",)])
    ]


def test_what_failed_is_told_by_the_exit_status(tmp_path, monkeypatch, capsys):
    def part(bench):
        """A part."""
        yield ("what",), [("failed: no card",)]

    monkeypatch.setitem(gpu.PARTS, "starts", (part, 5))
    args = gpu.arguments([f"--output={tmp_path / 'out'}", "--small", "--parts=starts"])
    assert gpu.measure(args, str(tmp_path)) == 1
    assert "failed: no card" in (tmp_path / "out" / "starts.md").read_text()
