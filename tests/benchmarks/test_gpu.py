"""The parts of the GPU benchmark, tried on a CPU with tiny sizes; what fails or is too slow is said."""

import dataclasses
import json
import os
import runpy
import sys
import time
from pathlib import Path

import jax
import pytest

from benchmarks import driver, gpu
from cifar_jax.errors import UserError
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
    report = json.loads((tmp_path / "whole_report.json").read_text())
    assert trained[2:4] == [f"{report[which]['test_accuracy']:.2%}" for which in ("final", "best")]
    plain, resumed, equal, classes = rows(tmp_path / "exact.md")
    assert plain[1].split(",")[0] == resumed[1].split(",")[0]
    assert "resumed after epoch " in resumed[1]
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
    assert commands[0][-1] == "--limit=45"
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


def test_the_reason_of_a_failure_is_the_line_that_tells_it():
    trace = "Traceback:\nValueError: no card | here\n----\nJAX has removed its internal frames.\n"
    assert gpu.reason(trace) == "ValueError: no card / here"
    assert gpu.reason("error: no images\nerror: the worker failed, see above") == "error: no images"
    assert gpu.reason("said\nlast\n\n") == "last"


def test_rows_that_were_printed_before_a_failure_are_kept(bench, monkeypatch):
    def fails(*_, **__):
        raise gpu.Failed("failed: lost", "| model | ratio |\n| --- | --- |\n| resnet18 | 1.20 |\n")

    monkeypatch.setattr(bench, "run", fails)
    (table,) = gpu.pytorch(bench)
    assert table == (("model", "ratio"), [("resnet18", "1.20"), ("failed: lost", "-")])


def test_the_second_start_alone_finds_what_the_first_compiled(bench, monkeypatch):
    caches = []

    def train(name, run, cache):
        caches.append((name, cache))
        final = {"images_per_second": 900.0}
        return {"compiled": "3 s", "first_steps": "5 s", "final": final, "images_per_second": 1.0}

    monkeypatch.setattr(bench, "train", train)
    starts = gpu.small().starts
    monkeypatch.setattr(
        bench,
        "sizes",
        dataclasses.replace(bench.sizes, starts={"a": starts["linear"], "b": starts["linear"]}),
    )
    *_, (_, rows) = gpu.starts(bench)
    assert [row[4] for row in rows] == ["900"] * 4
    assert caches == [
        ("start_a_first", "compiled_a"),
        ("start_a_second", "compiled_a"),
        ("start_b_first", "compiled_b"),
        ("start_b_second", "compiled_b"),
    ]


def measured(folder, monkeypatch, parts, *flags):
    """The exit status of `gpu.measure` with these parts: name -> (part, its time limit)."""
    monkeypatch.setattr(gpu, "PARTS", parts)
    monkeypatch.setattr(gpu, "describe_machine", lambda bench: "a machine")
    args = gpu.arguments([f"--output={folder}", "--small", f"--parts={','.join(parts)}", *flags])
    return driver.run_command(gpu.measure, args)


def test_a_part_that_breaks_leaves_its_rows_and_the_other_parts(tmp_path, monkeypatch):
    def breaks(bench):
        """A part."""
        yield ("what", "found"), [("first", 1)]
        assert "| first | 1 |" in (tmp_path / "breaks.md").read_text()
        raise ValueError("no JSON")

    def nothing(bench):
        """A part."""
        yield from ()

    def works(bench):
        """A part."""
        yield ("what",), [("all",)]

    parts = {"breaks": (breaks, 5), "nothing": (nothing, 5), "works": (works, 5)}
    (tmp_path / "works.md").write_text("of an earlier call")
    assert measured(tmp_path, monkeypatch, parts) == 1
    assert rows(tmp_path / "breaks.md") == [["first", "1"], ["failed: ValueError('no JSON')", "-"]]
    assert rows(tmp_path / "nothing.md") == [["failed: it left no result"]]
    assert rows(tmp_path / "works.md") == [["all"]]
    assert "a machine" in (tmp_path / "works.md").read_text()
    assert (tmp_path / "works.1.md").read_text() == "of an earlier call"


def slow(bench):
    """A part."""
    try:
        bench.run("slow", "-c", "import time; time.sleep(60)")
    except gpu.Failed as failed:
        yield ("what",), [(str(failed),)]


NOT_DONE = [["not done when the time of this part was over"]]


def test_a_part_ends_at_its_limit(tmp_path, monkeypatch):
    assert measured(tmp_path, monkeypatch, {"slow": (slow, 2)}) == 1
    assert rows(tmp_path / "slow.md") == NOT_DONE


def test_all_parts_end_when_the_time_is_over(tmp_path, monkeypatch, capsys):
    parts = {"slow": (slow, 600), "late": (slow, 600)}
    assert measured(tmp_path, monkeypatch, parts, "--minutes=0.05") == 1
    assert rows(tmp_path / "slow.md") == NOT_DONE
    assert "## late\n\nnot measured: the time was over" in capsys.readouterr().out
    assert not (tmp_path / "late.md").exists()


def test_what_a_program_has_started_ends_with_it(bench):
    starts = (
        "import subprocess, time\n"
        "print('pid', subprocess.Popen(['sleep', '600']).pid, 'of sleep')\n"
        "time.sleep(600)"
    )
    pid = bench.run("starts", "-c", starts, kill_at="of sleep").split()[1]
    assert any(is_dead(pid) or time.sleep(0.02) for _ in range(1000))


def is_dead(pid: str) -> bool:
    """Whether a process is gone, or waits for its parent to take note."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_machine_without_a_gpu_is_refused(tmp_path, monkeypatch):
    made = gpu.Bench(tmp_path, tmp_path, dataclasses.replace(gpu.small(), device="gpu"), "")
    found = json.dumps({"platform": "cpu", "device": "1 x cpu", "versions": {}})
    monkeypatch.setattr(made, "run", lambda *_: found)
    with pytest.raises(UserError, match="JAX finds no GPU, only 1 x cpu: install"):
        gpu.describe_machine(made)


def test_what_failed_is_told_by_the_exit_status(tmp_path, monkeypatch):
    def part(bench):
        """A part."""
        yield ("what",), [("failed: no card",)]

    assert measured(tmp_path / "out", monkeypatch, {"starts": (part, 5)}) == 1
    assert "failed: no card" in (tmp_path / "out" / "starts.md").read_text()
