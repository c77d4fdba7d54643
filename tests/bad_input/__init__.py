"""Gives bad input of every kind to `main.py`, as a user would. `python -m tests.bad_input` runs all of it."""

import dataclasses
import shutil
from pathlib import Path

from tests.bad_input import cases
from tests.conftest import TrainedRun
from tests.helpers import cli

INTRODUCTION = """# Bad input

What `main.py` prints for {count} commands, nearly all of them wrong. `python -m tests.bad_input` runs them
and writes this file. It fails if a command prints a stack trace, exits with status 0 although it is wrong, or
runs code from a file. Rows with status 0 are unusual but correct. A part of the commands runs with the other
tests. DIR is the folder of the input files.

"""


@dataclasses.dataclass(frozen=True)
class Row:
    """A case, and its exit status and output."""

    case: cases.Case
    status: int
    line: str


def run(folder: Path, trained: TrainedRun, groups=(), step: int = 1) -> tuple[list[Row], list[str]]:
    """Runs every `step`-th case of some or all groups. Returns the rows, and one line per wrong answer."""
    rows, wrong = [], []
    for group in groups or cases.GROUPS:
        for case in cases.of_group(group, folder / group, trained)[::step]:
            row, fault = _answer(case, folder, trained)
            rows.append(row)
            if fault:
                wrong.append(f"{group}, {case.what}: {fault} (status {row.status}: {row.line})")
    if list(folder.rglob("ran")):
        wrong.append("code from a file was run")
    return rows, wrong


def _answer(case: cases.Case, folder: Path, trained: TrainedRun) -> tuple[Row, str]:
    """The row of a case, and what is wrong with the answer, or ""."""
    new = folder / "new" / "run"
    shutil.rmtree(new.parent, ignore_errors=True)
    try:
        answer = trained.call(*(arg.replace(f"={cases.NEW}", f"={new}") for arg in case.args))
    except TimeoutError:
        return Row(case, -1, ""), "it hung"
    # The first line is the error; several mistakes have a line each.
    said = [line for line in answer.err.splitlines() if line]
    out = answer.out.splitlines()
    shown = said if case.says else [x for x in out if x.startswith("best on")] or out[-1:]
    line = " / ".join(shown).replace(str(folder), "DIR")
    line = line.replace(str(trained.folder), "DIR").replace(str(cli.runs.ROOT), ".")
    row = Row(case, answer.status, line)
    if "Traceback" in answer.err + answer.out:
        return row, "a stack trace"
    if not case.says:
        return row, "" if answer.status == 0 else "it should work"
    if answer.status not in (1, 2):
        return row, "the status should be 1 or 2"
    # A loss becomes infinite only after the run began, which leaves a workdir.
    if new.exists() and "not finite" not in answer.err:
        return row, "it leaves a workdir"
    if not said or not said[0].startswith("error: ") or case.says not in answer.err:
        return row, f"it should say {case.says!r}"
    if len(said) > 1 and case.what not in cases.SEVERAL_LINES:
        return row, "it should be one line"
    return row, ""


def table(rows: list[Row]) -> str:
    """The rows in Markdown, one table per group."""
    parts = []
    for group in dict.fromkeys(row.case.group for row in rows):
        parts.append(
            f"## {group.capitalize()}\n\n| input | status | printed |\n| --- | --- | --- |"
        )
        for row in rows:
            if row.case.group == group:
                cells = (f"`{row.case.what}`", str(row.status), _cut(row.line))
                parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts.append("")
    return "\n".join(parts)


def _cut(line: str) -> str:
    return line if len(line) <= 400 else f"{line[:400]}..."
