"""Measures the wall time of PyTorch's tutorial on CIFAR-10, from the start of the process to its end.

  python -m benchmarks.lenet_tutorial

A run is two epochs of LeNet at batch 4 on the real images, then the accuracy on the test images. Ours is
`python main.py --config=configs/lenet.py`, with all output files. PyTorch keeps its images in one tensor in
memory. The two run in turn, with one thread and with all. Our first run compiles; later runs use the cache
of compiled programs.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import common, driver
from cifar_jax.data import datasets
from cifar_jax.errors import UserError
from cifar_jax.storage import workdir as files_of
from configs import lenet


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lenet_tutorial",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    every = sorted({1, driver.cores()})
    numbers = lambda text: [int(x) for x in text.split(",")]  # noqa: E731
    add(
        "--threads",
        type=numbers,
        default=every,
        help="numbers of CPU cores to use, in turn (1 and all)",
    )
    add("--rounds", type=driver.positive, default=3, help="number of runs of each side (3)")
    args = parser.parse_args(argv)
    if not all(1 <= count <= driver.cores() for count in args.threads):
        parser.error(f"--threads: must be from 1 to {driver.cores()} on this machine")
    return args


def compare(args, folder: str) -> int:
    """Measures both sides and prints the table."""
    driver.need_pytorch()
    config = lenet.get_config()
    # The images are decoded once, for both sides, as in every run but the first.
    config.dataset.cache_dir = os.path.join(folder, "images")
    dataset = datasets.load(config.dataset, config.seed)
    for name in ("train", "test"):
        split = getattr(dataset, name)
        os.mkdir(os.path.join(folder, name))
        common.save_images(os.path.join(folder, name), split.images, split.labels)
    config.eval_batch_size = 1000
    rows = []
    for threads in args.threads:
        job = driver.create_job(
            config.to_dict(),
            os.path.join(folder, "train"),
            (dataset.mean, dataset.std),
            threads=threads,
            test_data=os.path.join(folder, "test"),
        )
        choice = driver.work("pytorch", dataclasses.replace(job, task="choose_training"))
        settings = common.Settings(**choice["settings"])
        job = dataclasses.replace(job, task="tutorial", settings=settings)
        found = {"ours": [], "pytorch": []}
        for turn in range(args.rounds):
            workdir = os.path.join(folder, f"run-{threads}-{turn}")
            found["ours"].append(run_ours(config, workdir, folder, threads))
            start = time.perf_counter()
            accuracy = driver.work("pytorch", job)["accuracy"]
            found["pytorch"].append((time.perf_counter() - start, accuracy))
            for side, results in found.items():
                seconds, accuracy = results[-1]
                driver.tell(f"{threads} threads, {side}: {seconds:.1f} s, accuracy {accuracy:.2%}")
        rows.append((threads, *map(in_words, found.values()), settings))
    head = ("threads", "ours, s (accuracy)", "PyTorch, s (accuracy)", "PyTorch's settings")
    print(common.table(head, rows))
    return 0


def in_words(results: list[tuple[float, float]]) -> str:
    """The seconds of each run in order, and the accuracies in brackets."""
    seconds = ", ".join(f"{seconds:.1f}" for seconds, _ in results)
    return f"{seconds} ({', '.join(f'{accuracy:.1%}' for _, accuracy in results)})"


def run_ours(config, workdir: str, folder: str, threads: int) -> tuple[float, float]:
    """Trains with `main.py`. Returns (seconds, test accuracy after the last epoch)."""
    start = time.perf_counter()
    with driver.bound_to(threads):
        process = subprocess.run(
            [
                sys.executable,
                "main.py",
                "--config=configs/lenet.py",
                f"--config.dataset.cache_dir={config.dataset.cache_dir}",
                f"--workdir={workdir}",
            ],
            cwd=driver.ROOT,
            # The project's caches are here, so the first run finds them empty.
            env={**os.environ, "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": f"{folder}/{threads}"},
            capture_output=True,
            text=True,
            check=False,
        )
    seconds = time.perf_counter() - start
    if process.returncode:
        sys.stderr.write(process.stderr)
        raise UserError("main.py failed, see above")
    lines = Path(workdir, files_of.METRICS).read_text().splitlines()
    return seconds, json.loads(lines[-1])["test_accuracy"]


if __name__ == "__main__":
    sys.exit(driver.run_command(compare, arguments(sys.argv[1:])))
