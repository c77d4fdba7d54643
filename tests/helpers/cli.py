"""`main.py` as a user calls it, for the tests: what it prints on each stream and its exit status.

Each call is a process of its own, forked from a server that has imported JAX but not started it
(see tests/helpers/runs.py), which saves the seconds that importing takes.
"""

import dataclasses
import json
import os
import runpy
import sys
from pathlib import Path

import jax

from tests.helpers import runs


@dataclasses.dataclass(frozen=True)
class Answer:
    """The result of one call."""

    status: int
    out: str
    err: str

    def json(self):
        """Standard output, which must be JSON and nothing else."""
        return json.loads(self.out)

    def refusal(self) -> str:
        """What it says is wrong, once it is known to be said in words and not as a stack trace."""
        assert self.status not in (0, None), self
        assert "Traceback" not in self.err, self.err
        assert self.err.startswith("error: "), self
        return self.err.removeprefix("error: ").rstrip("\n")


def call(folder: Path, *args: str, cwd=runs.ROOT, draws: bool = False) -> Answer:
    """Runs `python main.py ARGS`. `folder` holds its output and its cache of images.

    Plots are empty files unless it `draws`.
    """
    out, err = folder / "stdout", folder / "stderr"
    process = runs.context().Process(target=_child, args=(args, out, err, cwd, draws))
    process.start()
    process.join(runs.DEADLINE_SECONDS)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"no end of main.py {args}: {err.read_text()}")
    return Answer(process.exitcode, out.read_text(), err.read_text())


def _child(args, out, err, cwd, draws):
    if not draws:
        runs.draw_nothing()
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    os.environ["XDG_CACHE_HOME"] = str(out.parent / "cache")
    jax.config.update("jax_platforms", "cpu")
    os.chdir(cwd)
    sys.argv = ["main.py", *args]
    runpy.run_path(str(runs.ROOT / "main.py"), run_name="__main__")
