"""Trains the speedrun recipe many times: accuracy and time, beside airbench94_muon.py if that is given.

  python -m benchmarks.speedrun --device=gpu --runs=50
  python -m benchmarks.speedrun --device=gpu --runs=50 --rival=PATH/airbench94_muon.py

Each run has a seed of its own, from 0. All are trained by one process that compiles once, the seed being an
argument of the program. With a rival, which needs a GPU and PyTorch, a second process calls its `main` on
the same images and card, in turn with ours, run by run: while one works the other waits. The table is
printed on standard output, every run on standard error.
"""

import argparse
import json
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
    add("--runs", type=int, default=10, help="of each side (10)")
    add("--rival", default="", help="the path of airbench94_muon.py")
    add("--device", choices=["cpu", "gpu"], default="cpu")
    driver.add_threads(parser)
    add("--data", choices=["cifar10", "synthetic"], default="cifar10")
    add("--images", type=int, default=50_000, help="of synthetic data to train on (50000)")
    add("--epochs", type=int, help="of ours, to try the command out (the recipe's)")
    add("--batch_size", type=int, help="the same")
    add("--width", type=float, help="the same, of the network")
    args = parser.parse_args(argv)
    if args.runs < 1:
        parser.error("--runs: 1 or more")
    if args.rival and not os.path.isfile(args.rival):
        parser.error(f"--rival: there is no file {args.rival}")
    return args


def compare(args, folder: str) -> int:
    """Trains all runs and prints the table."""
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
    with driver.bound_to(args.threads):
        sides = {side: Side(side, command, args) for side, command in commands.items()}
        try:
            for seed in range(args.runs):
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
    if args.rival:
        print(f"\nRival's time over ours, run by run: {ratios(found)}")
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
    """Both splits as `common.save_images`, in folders of their own; their mean and deviation."""
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
    """A worker that is started once and trains a run for each seed that it is sent.

    Attributes:
      facts: what it says when all is compiled, {"versions", "device"}.
    """

    def __init__(self, name: str, command: list[str], args):
        self._name = name
        self._is_first = True
        start = time.perf_counter()
        environment = {
            **os.environ,
            "JAX_PLATFORMS": {"cpu": "cpu", "gpu": "cuda"}[args.device],
            # One card, the same for both.
            "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0],
            # Compiled anew, as its time is reported.
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            # The card is shared with the rival, which waits meanwhile.
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
        # Waited for here, so that the other side does not start while this one compiles.
        self.facts = self._answer()
        self._seconds_to_start = time.perf_counter() - start

    def run(self, seed: int) -> dict:
        """Trains; {"accuracy", "augmented_accuracy", times in seconds}, as the worker says.

        Raises:
          UserError: the worker failed.
        """
        start = time.perf_counter()
        self._process.stdin.write(f"{seed}\n")
        self._process.stdin.flush()
        answer = self._answer()
        if self._is_first:
            answer["from_start"] = self._seconds_to_start + time.perf_counter() - start
            self._is_first = False
        return answer

    def _answer(self) -> dict:
        # What else a side prints on standard output is no answer.
        for line in self._process.stdout:
            if line.startswith(common.ANSWER):
                return json.loads(line.removeprefix(common.ANSWER))
        raise UserError(f"the worker of {self._name} failed, see above")

    def close(self) -> None:
        """Ends the worker."""
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
)


def rows(found: dict) -> list[tuple]:
    """A line of the table for each side."""
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
        result.append((side, len(answers), accuracies, augmented, *times, first))
    return result


def accuracy(values: list[float]) -> str:
    """ "mean % (deviation; 95 % interval of the mean)", by Student's distribution."""
    mean = f"{100 * statistics.mean(values):.3f} %"
    if len(values) < 2:
        return mean
    deviation = statistics.stdev(values)
    error = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * deviation / len(values) ** 0.5
    low, high = (100 * (statistics.mean(values) + sign * error) for sign in (-1, 1))
    return f"{mean} (deviation {100 * deviation:.3f}; {low:.3f} to {high:.3f})"


def seconds(values: list[float | None]) -> str:
    """ "median (lowest to highest)"; a dash where a side does not tell it."""
    return "-" if None in values else common.summary(values)


def ratios(found: dict) -> str:
    pairs = zip(found["rival"], found["ours"], strict=True)
    return common.summary([a["with_evaluation"] / b["with_evaluation"] for a, b in pairs])


def in_words(answer: dict) -> str:
    shares = [f"{100 * answer[name]:.2f} %" for name in ("accuracy", "augmented_accuracy")]
    return f"{', with augmentation '.join(shares)}, {answer['with_evaluation']:.3f} s"


if __name__ == "__main__":
    sys.exit(driver.run_command(compare, arguments(sys.argv[1:])))
