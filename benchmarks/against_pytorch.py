"""Trains the same networks on the same data with this project and with PyTorch, in turn.

  python -m benchmarks.against_pytorch
  python -m benchmarks.against_pytorch --models=lenet --batch_size=4 --threads=1
  python -m benchmarks.against_pytorch --mode=eval --batch_size=128,1000
  python -m benchmarks.against_pytorch --device=gpu

Each measurement is a process of its own, ours and PyTorch's by turns. Before it, the losses of the first
20 steps are compared, from the same weights, on the same batches; where they do not agree the exit
status is 1. The table is printed on standard output, what goes on meanwhile on standard error.
"""

import argparse
import contextlib
import dataclasses
import importlib
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import common
from cifar_jax import datasets
from cifar_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[1]

# The recipes, by the names of their networks, and the size of a batch that --batch_size replaces.
RECIPES = {
    "mlp": "configs.cifar100.mlp",
    "lenet": "configs.lenet",
    "resnet20_v2": "configs.resnet20_v2",
    "resnet18": "configs.resnet18",
    "mobilenet_v2": "configs.mobilenet_v2",
}
MODES = {"train": ("train", "training"), "eval": ("evaluate", "evaluation")}

# How far our losses may be from those of a run in float64: this many times as far as PyTorch's
# float32 run gets in the worst of the steps so far, or by LEAST if that is more. Rounding grows from
# step to step as the weights move, in both alike; an error of formula is far larger at once.
TIMES, LEAST = 10.0, 1e-5
# And never further than this.
MOST = 1e-2


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.against_pytorch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    listed = lambda text: text.split(",")  # noqa: E731
    numbers = lambda text: [int(x) for x in text.split(",")]  # noqa: E731
    add = parser.add_argument
    add("--models", type=listed, default=list(RECIPES), help=", ".join(RECIPES))
    add("--batch_size", type=numbers, default=[128], help="one or several (128)")
    add("--mode", choices=list(MODES), default="train")
    add("--device", choices=["cpu", "gpu"], default="cpu")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="CPU cores to use (all)")
    add("--rounds", type=int, default=3, help="turns of each side; 0: compare losses only (3)")
    add("--seconds", type=float, default=10.0, help="to measure in each turn (10)")
    add("--data", choices=["synthetic", "cifar10"], default="synthetic")
    add("--images", type=int, default=50_000, help="of synthetic data (50000)")
    add("--width", type=float, help="multiplies the channels (1)")
    add("--check_steps", type=int, default=20, help="steps whose losses are compared (20)")
    add(
        "--torch_compile",
        action=argparse.BooleanOptionalAction,
        help="let PyTorch use torch.compile where it is faster (on a GPU: yes, on a CPU: no)",
    )
    args = parser.parse_args(argv)
    unknown = sorted(set(args.models) - RECIPES.keys())
    if unknown:
        parser.error(f"there is no model {unknown[0]!r}; there are: {', '.join(RECIPES)}")
    if not 1 <= args.threads <= len(os.sched_getaffinity(0)):
        parser.error(f"--threads: from 1 to {len(os.sched_getaffinity(0))} on this machine")
    if args.torch_compile is None:
        args.torch_compile = args.device == "gpu"
    return args


def main(argv: list[str]) -> int:
    args = arguments(argv)
    if importlib.util.find_spec("torch") is None:
        print("error: no PyTorch: pip install -r benchmarks/requirements.txt", file=sys.stderr)
        return 1
    try:
        with tempfile.TemporaryDirectory() as folder:
            return compare(args, folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def compare(args, folder: str) -> int:
    """Measures all, prints the table; 1 if losses disagree."""
    mean, std = make_data(args, folder)
    rows, wrong = [], []
    peak = measure_peak(args, folder) if args.rounds else None
    for model in args.models:
        for batch_size in args.batch_size:
            config = recipe(model, batch_size, args.width)
            job = common.Job(
                task="",
                config=config,
                data=folder,
                mean=config["dataset"]["mean"] or mean,
                std=config["dataset"]["std"] or std,
                device=args.device,
                threads=args.threads,
                seconds=args.seconds,
                check_steps=args.check_steps,
                reference=os.path.join(folder, "reference.npz"),
                torch_compile=args.torch_compile,
            )
            name = f"{model}, batch {batch_size}"
            difference, error = check_losses(job, args.mode, name)
            if error:
                wrong.append(error)
                tell(error)
            if args.rounds:
                rows.append((model, batch_size, *measure(job, args, name, peak), difference))
    if rows:
        print(describe(args, peak), common.table(HEAD, rows), sep="\n\n")
    for error in wrong:
        print(error)
    if not wrong:
        print(f"\nThe losses of the first {args.check_steps} steps agree.")
    return 1 if wrong else 0


def make_data(args, folder: str) -> tuple[tuple, tuple]:
    """Writes the images for the workers; mean and deviation."""
    if args.data == "synthetic":
        common.save_images(folder, *common.synthetic_images(args.images))
        return common.MEAN, common.STD
    config = importlib.import_module("configs.default").get_config()
    dataset = datasets.load(config.dataset, config.seed)
    common.save_images(folder, dataset.train.images, dataset.train.labels)
    return dataset.mean, dataset.std


def recipe(model: str, batch_size: int, width: float | None = None) -> dict:
    """The recipe's config as a dictionary; evaluation has the same batch."""
    config = importlib.import_module(RECIPES[model]).get_config()
    config.batch_size = config.eval_batch_size = batch_size
    if width:
        config.model.width = width
    return config.to_dict()


def check_losses(job: common.Job, mode: str, name: str) -> tuple[str, str]:
    """Compares the losses of the first steps: (the largest difference in words, what is wrong)."""
    _, noun = MODES[mode]
    job = dataclasses.replace(job, config=with_dtype(job.config, "float32"))
    tell(f"{name}: losses of the first {job.check_steps} steps")
    ours = work("ours", dataclasses.replace(job, task=f"reference_{noun}"))["losses"]
    theirs = work("pytorch", dataclasses.replace(job, task=f"check_{noun}"))
    difference, error = compare_losses(ours, theirs["losses"], theirs["exact"])
    return f"{difference:.0e}", f"{name}: {error}" if error else ""


def compare_losses(ours, theirs, exact) -> tuple[float, str]:
    """Compares losses of the same steps: ours and PyTorch's in float32, and some in float64.

    Returns:
      (the largest relative difference of ours from PyTorch's float32, what is wrong or nothing)
    """
    ours, theirs, exact = map(np.asarray, (ours, theirs, exact))
    scale = np.abs(exact)
    allowed = TIMES * np.maximum.accumulate(np.abs(theirs - exact) / scale)
    allowed = np.clip(allowed, LEAST, MOST)
    off = np.abs(ours - exact) / scale
    difference = float(np.max(np.abs(ours - theirs) / scale))
    for step in range(len(exact)):
        if not off[step] <= allowed[step]:
            return difference, (
                f"the losses do not agree: at step {step + 1} ours is {ours[step]:.7g}, PyTorch's "
                f"{theirs[step]:.7g}, in float64 {exact[step]:.7g} (relative difference "
                f"{off[step]:.1e}, allowed {allowed[step]:.1e})"
            )
    return difference, ""


HEAD = (
    "model",
    "batch",
    "ours, images/s",
    "PyTorch, images/s",
    "ratio",
    "share of peak, ours / PyTorch",
    "first call in s, ours / PyTorch",
    "memory of the process in MiB, ours / PyTorch",
    "after the first call, ours / PyTorch",
    "PyTorch's settings",
    "losses differ by",
)


def measure(job: common.Job, args, name: str, peak: float) -> tuple:
    """Measures both sides in turn: the columns of a row."""
    verb, noun = MODES[args.mode]
    if args.device == "gpu":
        job = dataclasses.replace(job, config=with_dtype(job.config, "bfloat16"))
    tell(f"{name}: PyTorch's best settings")
    choice = work("pytorch", dataclasses.replace(job, task=f"choose_{noun}"))
    for settings, seconds in choice["tried"].items():
        tell(f"  {settings}: {common.figure(1e3 * seconds)} ms a step")
    settings = common.Settings(**choice["settings"])
    job = dataclasses.replace(job, task=verb, settings=settings)
    operations = work("pytorch", dataclasses.replace(job, task="operations"))[verb]
    found = {"ours": [], "pytorch": []}
    batch_size = job.config["batch_size"]
    for turn in range(args.rounds):
        for side, results in found.items():
            result = work(side, job)
            result["rates"] = [batch_size / seconds for seconds in result["step"]]
            results.append(result)
            tell(f"{name}: {side} {turn + 1}: {common.summary(result['rates'])} images/s")
    ours, theirs = found["ours"], found["pytorch"]
    rates = [[rate for result in side for rate in result["rates"]] for side in (ours, theirs)]
    middle = [statistics.median(side) for side in rates]
    ratios = [
        statistics.median(a["rates"]) / statistics.median(b["rates"])
        for a, b in zip(ours, theirs, strict=True)
    ]
    memory = "gpu_memory" if args.device == "gpu" else "memory"

    def both(field, form="{:.0f}"):
        values = [statistics.median(result[field] for result in side) for side in (ours, theirs)]
        return " / ".join(form.format(value) for value in values)

    return (
        *map(common.summary, rates),
        f"**{middle[0] / middle[1]:.2f}** ({min(ratios):.2f} to {max(ratios):.2f})",
        " / ".join(f"{rate * operations / peak:.0%}" for rate in middle),
        both("first_call", "{:.1f}"),
        both(memory),
        "-" if args.device == "gpu" else both("memory_after_first"),
        settings,
    )


def measure_peak(args, folder: str) -> float:
    """Operations per second of a large matrix product: the better of both frameworks."""
    config = recipe(args.models[0], args.batch_size[0])
    job = common.Job("matmul", config, folder, device=args.device, threads=args.threads)
    rates = {}
    for side in ("ours", "pytorch"):
        result = work(side, job)
        rates[side] = result["matmul"]
        VERSIONS.update(result["versions"])
        VERSIONS["device"] = result["device"]
    tell(f"matrix product: {' and '.join(f'{x / 1e12:.3g}' for x in rates.values())} TFLOP/s")
    return max(rates.values())


# What the workers said of themselves.
VERSIONS = {}


def describe(args, peak: float) -> str:
    """Machine, versions and what was measured, in words."""
    versions = ", ".join(f"{name} {x}" for name, x in VERSIONS.items() if name != "device")
    dtype = "bfloat16" if args.device == "gpu" else "float32"
    where = VERSIONS["device"] if args.device == "gpu" else f"{args.threads} of its cores"
    data = "CIFAR-10" if args.data == "cifar10" else f"{args.images:,} synthetic images"
    return (
        f"{args.mode}, {dtype}, {data}, on {processor()}, {where}; Python {platform.python_version()}, "
        f"{versions}; largest matrix product measured: {peak / 1e12:.3g} TFLOP/s; "
        f"{args.rounds} rounds of {args.seconds:g} s each"
    )


def processor() -> str:
    """The processor's name and number of cores."""
    name = platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        name = names[0] if names else name
    return f"{name} ({os.cpu_count()} cores)"


def with_dtype(config: dict, dtype: str) -> dict:
    return config | {"model": config["model"] | {"dtype": dtype}}


def work(side: str, job: common.Job, **environment: str) -> dict:
    """Has a worker of a side ("ours" or "pytorch") do a job in a process of its own.

    Both sides are bound to the same cores, from which JAX takes its number of threads. What they
    compile is compiled anew each time.

    Raises:
      UserError: it failed; what it printed is on standard error.
    """
    cores = sorted(os.sched_getaffinity(0))[: job.threads]
    with tempfile.TemporaryDirectory() as cache:
        environment = {
            **os.environ,
            "JAX_PLATFORMS": {"cpu": "cpu", "gpu": "cuda"}[job.device],
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "TORCHINDUCTOR_CACHE_DIR": cache,
            **environment,
        }
        worker = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{side}", job.to_json()],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
            check=False,
        )
    if worker.returncode:
        sys.stderr.write(worker.stderr)
        raise UserError(f"the worker benchmarks.{side} failed at {job.task!r}, see above")
    return json.loads(worker.stdout.splitlines()[-1])


def tell(line: str) -> None:
    """Says what goes on."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
