"""The programs of `benchmarks.gpu`: their sizes, and how each runs within a part's time limit."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import driver

# XLA's flags that may matter, each beside its defaults.
FLAGS = (
    "",
    "--xla_gpu_autotune_level=1",
    "--xla_gpu_autotune_level=0",
    "--xla_gpu_experimental_enable_fusion_autotuner=false --xla_gpu_autotune_level=1",
    "--xla_gpu_enable_command_buffer=+convolution",
    "--xla_gpu_enable_command_buffer=+convolution,+while",
)
BFLOAT16 = {"model.dtype": "bfloat16"}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is measured: on a GPU as it is, or small, to try all parts on a CPU.

    Attributes:
      starts: name -> the recipe and the changed fields of the runs whose start is measured.
      whole: the same of the run that is trained to its end.
      exact: the same of the run that is killed and compared, with three epochs.
      flags: name -> the recipe of the steps that are measured with each of `xla`.
      speedrun, pytorch: arguments of these benchmarks.
      images: how many test images the bundled network classifies, and of which data set.
    """

    device: str
    starts: dict
    whole: tuple
    exact: tuple
    flags: dict
    xla: tuple
    seconds: float
    speedrun: tuple
    pytorch: tuple
    images: tuple


def on_a_gpu() -> Sizes:
    from configs import resnet20_v2, speedrun94

    two_epochs = BFLOAT16 | {"num_epochs": 2}
    names = ("resnet20_v2", "resnet18", "mobilenet_v2")
    resnet20 = resnet20_v2.get_config()
    resnet20.model.dtype = "bfloat16"
    return Sizes(
        device="gpu",
        starts={name: (f"configs/{name}.py", two_epochs) for name in names},
        whole=("configs/resnet20_v2.py", BFLOAT16),
        exact=("configs/resnet20_v2.py", BFLOAT16 | {"num_epochs": 3, "deterministic": True}),
        flags={"resnet20_v2": resnet20, "speedrun94": speedrun94.get_config()},
        xla=FLAGS,
        seconds=3.0,
        speedrun=("--runs=30",),
        pytorch=(
            "--models=resnet18,mobilenet_v2",
            "--batch_size=512",
            "--rounds=1",
            "--seconds=4",
            "--torch_compile=default",
        ),
        images=("cifar10", 10_000),
    )


def small() -> Sizes:
    from configs import lenet

    tiny = {
        "num_epochs": 2,
        "batch_size": 64,
        "dataset.name": "digits",
        "dataset.image_size": 32,
        "dataset.train_examples": 128,
    }
    steps = lenet.get_config()
    steps.batch_size = 8
    return Sizes(
        device="cpu",
        starts={"linear": ("configs/cifar100/softmax.py", tiny)},
        whole=("configs/cifar100/softmax.py", tiny),
        exact=("configs/cifar100/softmax.py", tiny | {"num_epochs": 3, "deterministic": True}),
        flags={"lenet": steps},
        xla=("--xla_backend_optimization_level=0",),
        seconds=0.1,
        speedrun=(
            "--runs=1",
            "--data=synthetic",
            "--images=100",
            "--batch_size=50",
            "--epochs=1",
            "--width=0.0625",
        ),
        pytorch=("--models=lenet", "--batch_size=8", "--rounds=1", "--seconds=0.1", "--images=200"),
        images=("digits", 64),
    )


class Failed(Exception):
    """A program failed or was not done in time; the text says which. What it printed is in `printed`."""

    def __init__(self, reason: str, printed: str = ""):
        super().__init__(reason)
        self.printed = printed


class Bench:
    """Runs programs within a part's time limit and keeps what they print.

    Attributes:
      folder: the output folder.
      scratch: a folder for runs and caches, deleted at the end.
      sizes: what is measured.
      rival: the path of airbench94_muon.py, or "".
    """

    def __init__(self, folder: Path, scratch: Path, sizes: Sizes, rival: str):
        self.folder, self.scratch, self.sizes, self.rival = folder, scratch, sizes, rival
        self.deadline = 0.0

    def left(self) -> float:
        """The seconds that are left for the part."""
        return self.deadline - time.perf_counter()

    def run(self, name: str, *command: str, kill_at: str = "", environment=None) -> str:
        """Runs a Python program to its end, or until it has printed `kill_at`. Returns what it printed.

        Raises:
          Failed: its status is not 0, or the part's time is over.
        """
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        path = logs / f"{name}.txt"
        environment = {
            **os.environ,
            "JAX_PLATFORMS": {"cpu": "cpu", "gpu": "cuda,cpu"}[self.sizes.device],
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        }
        with open(path, "w") as log:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=driver.ROOT,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
            killed = late = False
            try:
                killed = self._wait(process, path, kill_at)
            except TimeoutError:
                late = True
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        text = path.read_text(errors="replace")
        if late:
            raise Failed("not done when the time of this part was over", text)
        if kill_at and not killed:
            raise Failed("failed: it ended before it could be killed", text)
        if process.returncode and not killed:
            raise Failed(f"failed: {reason(text)}", text)
        return text

    def _wait(self, process, path: Path, kill_at: str) -> bool:
        """Waits for the end or for `kill_at`; True if it was the latter.

        Raises:
          TimeoutError: the part's time is over.
        """
        while process.poll() is None:
            if kill_at and kill_at in path.read_text(errors="replace"):
                return True
            if self.left() < 0:
                raise TimeoutError
            time.sleep(0.02)
        return False

    def train(
        self, name: str, run: tuple, cache: str = "off", workdir: str = "", kill_at: str = ""
    ) -> dict:
        """Trains a run with main.py. Returns its figures, with "workdir"."""
        recipe, fields = run
        workdir = self.scratch / (workdir or name)
        given = [f"--config.{field}={value}" for field, value in fields.items()]
        place = cache if cache == "off" else self.scratch / cache
        command = [
            "main.py",
            f"--config={recipe}",
            *given,
            f"--workdir={workdir}",
            f"--compiled={place}",
        ]
        text = self.run(name, *command, kill_at=kill_at)
        report = workdir / "report.json"
        figures = json.loads(report.read_text()) if report.exists() else {}
        return figures | {
            "workdir": workdir,
            "compiled": _found(r"compiled in (.*)", text),
            "first_steps": _found(r"first steps done (.*) after the start", text),
            "resumed": _found(r"(after epoch .*)", text),
        }


def reason(text: str) -> str:
    """The line of a program's output that tells best why it failed."""
    lines = [line for line in text.splitlines() if line.strip()] or ["no output"]
    errors = [line for line in lines if re.search(r"^(error: |[\w.]*Error\b|F\d{4} )", line)]
    tells = [line for line in errors if not line.endswith("see above")]
    return (tells or errors or lines)[-1][:160].replace("|", "/")


def result_of(text: str) -> dict:
    """The result that a worker has printed among other lines."""
    found = [line for line in text.splitlines() if line.startswith("{")]
    if not found:
        raise Failed(f"failed: no result: {reason(text)}")
    return json.loads(found[-1])


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else "-"
