"""The commands of docs/tour.md, in order, in an empty folder, with one epoch each."""

from tests.helpers import cli, runs
from tests.test_documentation import ROOT, commands

WRITTEN = (
    "runs/first/history.png",
    "runs/long/report.json",
    "runs/compare/index.html",
    "runs/first/eval/index.html",
    "runs/answers.png",
    "runs/digits.onnx",
)


def test_the_commands_of_the_tour(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", runs.flags(1))
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    typed = commands((ROOT / "docs/tour.md").read_text())
    assert len(typed) == 9
    for args in typed:
        if "--config=configs/quickstart.py" in args:
            args = [arg for arg in args if "num_epochs" not in arg] + ["--config.num_epochs=1"]
        answer = cli.call(tmp_path, *args, cwd=tmp_path, draws=True)
        assert (answer.status, "error" in answer.err) == (0, False), answer
    for name in WRITTEN:
        assert (tmp_path / name).stat().st_size > 0
