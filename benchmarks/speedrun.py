"""Trains the speedrun recipe with many seeds and prints accuracy and time, also of airbench94_muon.py.

  python -m benchmarks.speedrun --device=gpu --runs=50
  python -m benchmarks.speedrun --device=gpu --runs=50 --rival=PATH/airbench94_muon.py

Seeds count from 0. One process trains all runs and compiles once, because the seed is an argument of the
program. With --rival, which needs a GPU and PyTorch, a second process calls the `main` of that script on
the same images and card. The two take turns, run by run: while one works, the other waits. Neither uses
what an earlier process compiled, unless TORCHINDUCTOR_CACHE_DIR names a folder for the rival to keep it in.
The table goes to standard output, a line per run to standard error.
"""

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import time

from scipy import stats

from benchmarks import common, driver
from cifar_jax import config as config_lib
from cifar_jax.data import datasets
from cifar_jax.errors import UserError
from cifar_jax.system import malloc
from configs import default, speedrun94

CONFIDENCE = 0.95


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speedrun",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--runs", type=driver.positive, default=10, help="number of runs of each side (10)")
    add("--limit", type=float, default=math.inf, help="begin no run after this many seconds")
    add("--rival", default="", help="the path of airbench94_muon.py")
    add("--device", choices=["cpu", "gpu"], default="cpu")
    driver.add_threads(parser)
    add("--data", choices=["cifar10", "synthetic"], default="cifar10")
    add(
        "--images",
        type=driver.positive,
        default=50_000,
        help="number of synthetic training images (50000)",
    )
    add("--epochs", type=driver.positive, help="for a quick try: our epochs (the recipe's)")
    add("--batch_size", type=driver.positive, help="for a quick try: our batch size")
    add("--width", type=float, help="for a quick try: our network's width")
    args = parser.parse_args(argv)
    if args.rival and not os.path.isfile(args.rival):
        parser.error(f"--rival: there is no file {args.rival}")
    return args


def compare(args, folder: str) -> int:
    """Trains all runs and prints the table. Returns the exit status."""
    end = time.perf_counter() + args.limit
    if args.rival:
        driver.need_pytorch()
    config = recipe(args)
    config_lib.validate(config, default.FIELDS)
    statistics_of_images = write_images(args, folder)
    job = driver.create_job(
        config.to_dict(),
        os.path.join(folder, "train"),
        statistics_of_images,
        device=args.device,
        threads=args.threads,
        test_data=os.path.join(folder, "test"),
    )
    commands = {"ours": ["-m", "benchmarks.speedrun_ours", job.to_json()]}
    if args.rival:
        rival = os.path.abspath(args.rival)
        commands["rival"] = ["-m", "benchmarks.speedrun_rival", rival, job.data, job.test_data]
    found = {side: [] for side in commands}
    sides = {}
    with driver.bound_to(args.threads):
        try:
            for side, command in commands.items():
                sides[side] = Side(side, command, args, folder)
            for seed in range(args.runs):
                if seed and time.perf_counter() > end:
                    break
                for side, worker in sides.items():
                    found[side].append(worker.run(seed))
                    driver.tell(f"{side} {seed}: {in_words(found[side][-1])}")
        finally:
            for worker in sides.values():
                worker.close()
    versions = {}
    for worker in sides.values():
        versions |= worker.facts["versions"]
    machine = [driver.describe_machine(versions)]
    machine += [f"{side}: {worker.facts['device']}" for side, worker in sides.items()]
    print("; ".join(machine), common.table(HEAD, rows(found)), sep="\n\n")
    return 0


def recipe(args):
    config = speedrun94.get_config()
    config.model.dtype = "bfloat16" if args.device == "gpu" else "float32"
    config.num_epochs = args.epochs or config.num_epochs
    config.batch_size = args.batch_size or config.batch_size
    if args.width:
        config.model.width = args.width
    return config


def write_images(args, folder: str) -> tuple:
    """Writes both splits into folders of their own. Returns their (mean, standard deviation)."""
    if args.data == "synthetic":
        images, labels = common.synthetic_images(args.images + args.images // 5)
        splits = [(images[: args.images], labels[: args.images])]
        splits.append((images[args.images :], labels[args.images :]))
        image_statistics = (common.MEAN, common.STD)
    else:
        dataset = datasets.load(default.get_config().dataset, 0)
        splits = [(split.images, split.labels) for split in (dataset.train, dataset.test)]
        image_statistics = (dataset.mean, dataset.std)
    for name, split in zip(("train", "test"), splits, strict=True):
        os.mkdir(os.path.join(folder, name))
        common.save_images(os.path.join(folder, name), *split)
    return image_statistics


class Side:
    """A worker process that starts once and trains one run for each seed it receives.

    Attributes:
      facts: {"versions", "device"}, which the worker sends once everything is compiled.
    """

    def __init__(self, name: str, command: list[str], args, folder: str):
        self._name = name
        self._is_first = True
        start = time.perf_counter()
        environment = {
            "TORCHINDUCTOR_CACHE_DIR": os.path.join(folder, "inductor"),
            **os.environ,
            "JAX_PLATFORMS": {"cpu": "cpu", "gpu": "cuda"}[args.device],
            # Both sides use the same card.
            "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0],
            # The time to compile is reported, so nothing is reused.
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            # The waiting rival keeps its memory on the same card.
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false" if args.rival else "true",
            "GLIBC_TUNABLES": malloc.SETTINGS,
        }
        self._process = subprocess.Popen(
            [sys.executable, *command],
            cwd=driver.ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        # Wait here, so that the other side does not start while this one compiles.
        try:
            self.facts = self._answer()
        except BaseException:
            self._process.kill()  # it may be compiling, and would not see that it is to end
            self.close()
            raise
        self._seconds_to_start = time.perf_counter() - start

    def run(self, seed: int) -> dict:
        """Trains a run. Returns the worker's answer: "accuracy", "augmented_accuracy", and times in seconds.

        Raises:
          UserError: the worker failed.
        """
        start = time.perf_counter()
        with contextlib.suppress(BrokenPipeError):  # it has died: there will be no answer
            self._process.stdin.write(f"{seed}\n")
            self._process.stdin.flush()
        answer = self._answer()
        if self._is_first:
            answer["from_start"] = self._seconds_to_start + time.perf_counter() - start
            self._is_first = False
        return answer

    def _answer(self) -> dict:
        # Skip whatever else the worker prints.
        for line in self._process.stdout:
            if line.startswith(common.ANSWER):
                return json.loads(line.removeprefix(common.ANSWER))
        raise UserError(f"the worker of {self._name} failed, see above")

    def close(self) -> None:
        """Stops the worker."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


HEAD = (
    "side",
    "runs",
    "accuracy",
    "with test-time augmentation",
    "training, s",
    "with whitening and first weights, s",
    "with augmented evaluation too, s",
    "first run from the start of the process, compiling, s",
    "time divided by ours, run by run",
)


def rows(found: dict) -> list[tuple]:
    """One row of the table for each side."""
    result = []
    for side, answers in found.items():
        accuracies, augmented = (
            accuracy([answer[name] for answer in answers])
            for name in ("accuracy", "augmented_accuracy")
        )
        times = [
            seconds([answer.get(name) for answer in answers])
            for name in ("train", "with_whitening", "with_evaluation")
        ]
        first = common.figure(answers[0]["from_start"])
        ratios = common.summary(
            [
                theirs["with_evaluation"] / ours["with_evaluation"]
                for theirs, ours in zip(answers, found["ours"], strict=True)
            ]
        )
        result.append((side, len(answers), accuracies, augmented, *times, first, ratios))
    return result


def accuracy(values: list[float]) -> str:
    """ "mean % (standard deviation; 95 % confidence interval of the mean)", by Student's t."""
    mean = f"{100 * statistics.mean(values):.3f} %"
    if len(values) < 2:
        return mean
    deviation = statistics.stdev(values)
    error = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * deviation / len(values) ** 0.5
    low, high = (100 * (statistics.mean(values) + sign * error) for sign in (-1, 1))
    return f"{mean} (deviation {100 * deviation:.3f}; {low:.3f} to {high:.3f})"


def seconds(values: list[float | None]) -> str:
    """ "median (lowest to highest)", or a dash if the side does not report it."""
    return "-" if None in values else common.summary(values)


def in_words(answer: dict) -> str:
    shares = [f"{100 * answer[name]:.2f} %" for name in ("accuracy", "augmented_accuracy")]
    return f"{', with augmentation '.join(shares)}, {answer['with_evaluation']:.3f} s"


if __name__ == "__main__":
    sys.exit(driver.run_command(compare, arguments(sys.argv[1:])))
