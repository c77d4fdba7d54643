"""Runs `main.py` on every bad input and writes what it prints into the README.md in this folder.

python -m tests.bad_input            all groups; takes a few minutes
python -m tests.bad_input pictures   one group; only prints the table

It fails if a command prints a stack trace, exits with status 0 although it is wrong, hangs, prints another
message than expected, runs code from a file, or leaves a workdir behind although it refused to train.
"""

import sys
import tempfile
from pathlib import Path

from tests import bad_input
from tests.conftest import train_small

README = Path(__file__).with_name("README.md")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="bad_input") as folder:
        trained = train_small(Path(folder) / "trained")
        rows, wrong = bad_input.run(Path(folder) / "input", trained, sys.argv[1:])
    table = bad_input.table(rows)
    if sys.argv[1:]:
        print(table)
    elif not wrong:
        README.write_text(bad_input.INTRODUCTION.format(count=len(rows)) + table, encoding="utf-8")
    print(f"{len(rows)} commands, {len(wrong)} wrong", file=sys.stderr)
    for line in wrong:
        print(f"wrong: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
