"""Trains the same networks on the same images with this project and with PyTorch, and compares the speed.

  python -m benchmarks.against_pytorch
  python -m benchmarks.against_pytorch --models=lenet --batch_size=4 --threads=1
  python -m benchmarks.against_pytorch --mode=eval --batch_size=128,1000
  python -m benchmarks.against_pytorch --device=gpu

Each measurement is a process of its own, ours and PyTorch's in turn. Before it, the losses of the first 20
steps are compared, from the same weights, on the same batches; if they do not agree, the exit status is 1.
The table goes to standard output, progress to standard error.
"""

import argparse
import dataclasses
import os
import statistics
import sys

import numpy as np

from benchmarks import common, driver
from benchmarks.driver import RECIPES, tell, work

MODES = {"train": ("train", "training"), "eval": ("evaluate", "evaluation")}

# A rounding grows from step to step, faster at higher learning rates. How fast is measured in PyTorch: it
# trains again from weights that were moved by a rounding. Our losses may differ from PyTorch's by this
# many times as much, or by LEAST_TOLERANCE if that is more. In the first steps the limit is tight: a wrong
# formula exceeds it by orders of magnitude.
TOLERANCE_FACTOR = 10.0
# By optimizer. Optax computes Adam's 1 - 0.999**step in float32, with a relative error of up to 6e-5.
LEAST_TOLERANCE = {"sgd": 1e-5, "adam": 2e-4, "adamw": 2e-4}


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.against_pytorch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    listed = lambda text: text.split(",")  # noqa: E731
    numbers = lambda text: [driver.positive(x) for x in text.split(",")]  # noqa: E731
    add = parser.add_argument
    add("--models", type=listed, default=list(RECIPES), help=", ".join(RECIPES))
    add("--batch_size", type=numbers, default=[128], help="one or more (128)")
    add("--mode", choices=list(MODES), default="train")
    add("--device", choices=["cpu", "gpu"], default="cpu")
    driver.add_threads(parser)
    add(
        "--rounds",
        type=lambda text: 0 if text == "0" else driver.positive(text),
        default=3,
        help="measurements of each side; 0: only compare losses (3)",
    )
    add("--seconds", type=float, default=10.0, help="length of a measurement (10)")
    add("--data", choices=["synthetic", "cifar10"], default="synthetic")
    add("--images", type=driver.positive, default=50_000, help="number of synthetic images (50000)")
    add(
        "--check_steps",
        type=driver.positive,
        default=20,
        help="steps whose losses are compared (20)",
    )
    add(
        "--torch_compile",
        type=listed,
        metavar="MODES",
        help="let PyTorch use torch.compile in these modes if it is faster "
        "(on a GPU: default,max-autotune; on a CPU: none)",
    )
    args = parser.parse_args(argv)
    unknown = sorted(set(args.models) - RECIPES.keys())
    if unknown:
        parser.error(f"--models: no model {unknown[0]!r}; choose from {', '.join(RECIPES)}")
    if args.torch_compile is None:
        args.torch_compile = ["default", "max-autotune"] if args.device == "gpu" else []
    return args


def compare(args, folder: str) -> int:
    """Measures all models and prints the table, row by row. Returns 1 if losses disagree, else 0."""
    driver.need_pytorch()
    image_statistics = driver.make_data(folder, args.data, args.images)
    wrong = []
    if args.rounds:
        peak, machine = measure_machine(args, folder)
        print(describe(args, peak, machine), common.table(HEAD, []), sep="\n\n", flush=True)
    for model in args.models:
        for batch_size in args.batch_size:
            job = driver.create_job(
                driver.recipe(model, batch_size),
                folder,
                image_statistics,
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
                row = (model, batch_size, *measure(job, args, name, peak), difference)
                print(common.row(row), flush=True)
    if args.rounds:
        print()
    print("\n".join(wrong) or f"The losses of the first {args.check_steps} steps agree.")
    return 1 if wrong else 0


def check_losses(job: common.Job, mode: str, name: str) -> tuple[str, str]:
    """Compares the losses of the first steps. Returns (their difference in words, an error message or "")."""
    _, noun = MODES[mode]
    job = dataclasses.replace(job, config=driver.with_dtype(job.config, "float32"))
    tell(f"{name}: losses of the first {job.check_steps} steps")
    # By default, GPUs multiply with fewer digits.
    exact = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    ours = work("ours", dataclasses.replace(job, task=f"reference_{noun}"), **exact)["losses"]
    theirs = work("pytorch", dataclasses.replace(job, task=f"check_{noun}"))
    ours, theirs, moved = map(np.asarray, (ours, theirs["losses"], theirs["moved"]))
    error = disagreement(ours, theirs, moved, LEAST_TOLERANCE[job.config["optimizer"]["name"]])
    difference, own = (np.max(relative(x, theirs)) for x in (ours, moved))
    return f"{difference:.0e} ({own:.0e})", f"{name}: {error}" if error else ""


def disagreement(ours, theirs, moved, least: float) -> str:
    """An error message if our losses differ too much from PyTorch's, else "".

    Args:
      ours, theirs: our and PyTorch's losses of the same steps, float [steps].
      moved: PyTorch's losses from weights that were moved by a rounding.
      least: a difference that is always allowed.
    """
    allowed = np.maximum(TOLERANCE_FACTOR * np.maximum.accumulate(relative(moved, theirs)), least)
    off = relative(ours, theirs)
    for step in range(len(theirs)):
        if not off[step] <= allowed[step]:
            return (
                f"the losses do not agree: at step {step + 1} ours is {ours[step]:.7g}, PyTorch's is "
                f"{theirs[step]:.7g}; they differ by {off[step]:.1e}, and {allowed[step]:.1e} is allowed"
            )
    return ""


def relative(losses, theirs):
    """Absolute differences from PyTorch's losses, divided by those above 1."""
    return np.abs(losses - theirs) / np.maximum(np.abs(theirs), 1)


HEAD = (
    "model",
    "batch",
    "ours, images/s",
    "PyTorch, images/s",
    "ratio",
    "share of peak, ours / PyTorch",
    "input, share of our step",
    "first call in s, ours / PyTorch",
    "peak memory in MiB, ours / PyTorch",
    "peak memory after the first call, ours / PyTorch",
    "PyTorch's settings",
    "difference of the losses (PyTorch's own, after a rounding)",
)


def measure(job: common.Job, args, name: str, peak: float) -> tuple:
    """Measures both sides in turn. Returns the cells of a table row."""
    verb, noun = MODES[args.mode]
    if args.device == "gpu":
        job = dataclasses.replace(job, config=driver.with_dtype(job.config, "bfloat16"))
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
        input_share(ours),
        both("first_call", "{:.1f}"),
        both(memory),
        "-" if args.device == "gpu" else both("memory_after_first"),
        settings,
    )


def input_share(results: list[dict]) -> str:
    """The time to make a batch as a share of a step, or a dash for evaluation."""
    if "input" not in results[0]:
        return "-"
    shares = [result["input"] / statistics.median(result["step"]) for result in results]
    return f"{statistics.median(shares):.1%}"


def measure_machine(args, folder: str) -> tuple[float, str]:
    """(Operations per second of a large matrix product, the better of both sides; the machine in words)."""
    config = driver.recipe(args.models[0], args.batch_size[0])
    job = common.Job("matmul", config, folder, device=args.device, threads=args.threads)
    ours, theirs = work("ours", job), work("pytorch", job)
    rates = {"ours": ours["matmul"] / 1e12, "PyTorch": theirs["matmul"] / 1e12}
    tell("matrix product: " + ", ".join(f"{name} {x:.3g} TFLOP/s" for name, x in rates.items()))
    machine = driver.describe_machine(ours["versions"] | theirs["versions"])
    if args.device == "gpu":
        machine = f"{theirs['device']}; {machine}"
    return 1e12 * max(rates.values()), machine


def describe(args, peak: float, machine: str) -> str:
    """What was measured, and on which machine, in words."""
    dtype = "bfloat16" if args.device == "gpu" else f"float32, {args.threads} threads"
    data = "CIFAR-10" if args.data == "cifar10" else f"{args.images:,} synthetic images"
    return (
        f"{args.mode}, {dtype}, {data}; {args.rounds} measurements of {args.seconds:g} s each. {machine}. "
        f"Peak (a large matrix product): {peak / 1e12:.3g} TFLOP/s."
    )


if __name__ == "__main__":
    sys.exit(driver.run_command(compare, arguments(sys.argv[1:])))
