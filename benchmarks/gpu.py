"""Measures on one GPU, in parts, the most important first. It needs no network, and nine minutes at most.

  python -m benchmarks.gpu --output=FOLDER
  python -m benchmarks.gpu --output=FOLDER --parts=rival --rival=PATH/airbench94_muon.py
  python -m benchmarks.gpu --output=FOLDER --small        # tries every part on a CPU, with tiny networks

Each part has a time limit. Its table is written to FOLDER/PART.md row by row and printed when the part ends,
and what its programs print is in FOLDER/logs, so a call that is cut short leaves what it has. What is too
slow or fails is a row that says so; then the exit status is 1. An older PART.md is kept as PART.1.md.
"""

import argparse
import contextlib
import hashlib
import json
import math
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import common, driver
from benchmarks.gpu_programs import Bench, Failed, on_a_gpu, reason, result_of, small
from cifar_jax.data import datasets
from cifar_jax.errors import UserError
from configs import default

MINUTES = 9.0

# --- Parts. Each is a generator of (head, rows) that ends early if the time is over. ----------------

Table = tuple[tuple[str, ...], list[tuple]]


def starts(bench: Bench) -> Iterator[Table]:
    """From the start of the process to the first steps, without and with what the first start kept."""
    head = ("run", "start", "compiled in", "first steps after", "images/s", "whole run, s")
    rows = []
    for name, run in bench.sizes.starts.items():
        for which in ("first", "second"):
            try:
                start = time.perf_counter()
                # A folder of its own: XLA's measurements of one network may help another.
                found = bench.train(f"start_{name}_{which}", run, cache=f"compiled_{name}")
                spent = time.perf_counter() - start
                # The last epoch: the first one warms up.
                speed = common.figure(found["final"]["images_per_second"])
                rows.append(
                    (
                        name,
                        which,
                        found["compiled"],
                        found["first_steps"],
                        speed,
                        common.figure(spent),
                    )
                )
            except Failed as failed:
                rows.append((name, which, str(failed), *"---"))
            yield head, rows


def speedrun(bench: Bench) -> Iterator[Table]:
    """The speedrun of many seeds: accuracy with and without views, and times."""
    yield from _table_of(bench, "speedrun", (*bench.sizes.speedrun, _limit(bench)))


def rival(bench: Bench) -> Iterator[Table]:
    """airbench94_muon.py in turn with ours. What it compiles is kept in the output folder."""
    if not bench.rival:
        yield ("rival",), [("not measured: give --rival=PATH/airbench94_muon.py",)]
        return
    kept = {"TORCHINDUCTOR_CACHE_DIR": str(bench.folder.resolve() / "inductor")}
    args = (*bench.sizes.speedrun, _limit(bench), f"--rival={bench.rival}")
    yield from _table_of(bench, "speedrun", args, kept)


def _limit(bench: Bench) -> str:
    """The flag of the speedrun with which it prints its table before the part's time is over."""
    return f"--limit={max(0.0, bench.left() - 15):.0f}"


def pytorch(bench: Bench) -> Iterator[Table]:
    """Training beside PyTorch, compiled in the mode "default"."""
    yield from _table_of(bench, "against_pytorch", bench.sizes.pytorch)


def _table_of(bench: Bench, module: str, args, environment=None) -> Iterator[Table]:
    """The table that another benchmark prints; if it ends too early, the rows that it has, and why."""
    device = f"--device={bench.sizes.device}"
    name = "rival" if environment else module
    why = []
    try:
        text = bench.run(name, "-m", f"benchmarks.{module}", device, *args, environment=environment)
    except Failed as failed:
        text, why = failed.printed, [str(failed)]
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    head, _, *rows = map(tuple, lines or [(module,), ()])
    if not rows and not why:
        why = [f"failed: no table: {reason(text)}"]
    yield head, rows + [(line, *["-"] * (len(head) - 1)) for line in why]


def flags(bench: Bench) -> Iterator[Table]:
    """What XLA's flags do to the first call and to a step."""
    head = ("steps", "XLA_FLAGS", "first call, s", "step, ms", "images/s")
    rows = []
    data = bench.scratch / "images"
    data.mkdir(exist_ok=True)
    count = 50_000 if bench.sizes.device == "gpu" else 200
    common.save_images(str(data), *common.synthetic_images(count))
    # Each of the first flags for all networks, if there is no time for all of them.
    for number, xla in enumerate(bench.sizes.xla):
        for name, config in bench.sizes.flags.items():
            job = driver.create_job(
                config.to_dict(),
                str(data),
                (common.MEAN, common.STD),
                task="train",
                device=bench.sizes.device,
                seconds=bench.sizes.seconds,
                input_seconds=0.0,
            )
            settings = {"XLA_FLAGS": xla, "JAX_ENABLE_COMPILATION_CACHE": "false"}
            try:
                text = bench.run(
                    f"flags_{name}_{number}",
                    "-m",
                    "benchmarks.ours",
                    job.to_json(),
                    environment=settings,
                )
                found = result_of(text)
                step = statistics.median(found["step"])
                figures = (found["first_call"], 1000 * step, config.batch_size / step)
                rows.append((name, xla or "none", *map(common.figure, figures)))
            except Failed as failed:
                rows.append((name, xla or "none", str(failed), "-", "-"))
            yield head, rows


def whole(bench: Bench) -> Iterator[Table]:
    """A whole recipe. Its report, metrics and weights are copied to the output folder."""
    head = ("recipe", "epochs", "last accuracy", "best accuracy", "images/s", "whole run, s")
    recipe, _ = bench.sizes.whole
    start = time.perf_counter()
    try:
        found = bench.train("whole", bench.sizes.whole)
    except Failed as failed:
        yield head, [(recipe, str(failed), *"----")]
        found = {"workdir": bench.scratch / "whole"}
    spent = time.perf_counter() - start
    for name in ("report.json", "metrics.jsonl", "best.safetensors", "history.png"):
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(found["workdir"] / name, bench.folder / f"whole_{name}")
    if "final" in found:
        last, best = found["final"]["test_accuracy"], found["best"]["test_accuracy"]
        speed, spent = common.figure(found["images_per_second"]), common.figure(spent)
        yield head, [(recipe, found["final"]["epoch"], f"{last:.2%}", f"{best:.2%}", speed, spent)]


def exact(bench: Bench) -> Iterator[Table]:
    """Equal bits with `deterministic`, also after a kill; and the bundled network here and on the CPU."""
    head = ("what", "found")
    rows = []

    def add(what, answer):
        try:
            rows.append((what, answer()))
        except Failed as failed:
            rows.append((what, str(failed)))
        return head, rows

    results = {}

    def plain():
        found = bench.train("exact_plain", bench.sizes.exact)
        results["plain"] = results_of(found["workdir"])
        return f"{results['plain']}, {common.figure(found['images_per_second'])} images/s"

    def resumed():
        bench.train("exact_killed", bench.sizes.exact, workdir="exact", kill_at="epoch 2/")
        found = bench.train("exact_resumed", bench.sizes.exact, workdir="exact")
        results["resumed"] = results_of(found["workdir"])
        return f"{results['resumed']}, resumed {found['resumed']}"

    yield add("weights and metrics of a deterministic run", plain)
    yield add("the same, killed in its second or third epoch and resumed", resumed)
    if len(results) == 2:
        rows.append(("both are equal", "yes" if results["plain"] == results["resumed"] else "NO"))
        yield head, rows
    yield add("the bundled network on this device and on the CPU", lambda: same_classes(bench))


def results_of(workdir: Path) -> str:
    """Digests of a run's best weights and of its metrics without the times."""
    weights = hashlib.sha256((workdir / "best.safetensors").read_bytes()).hexdigest()[:16]
    entries = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    kept = [
        {key: value for key, value in entry.items() if "second" not in key} for entry in entries
    ]
    return f"{weights} {hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:16]}"


def same_classes(bench: Bench) -> str:
    """How the bundled network's answers on this device differ from those on the CPU, in words."""
    files = {}
    for device, platform in {"here": None, "cpu": "cpu"}.items():
        files[device] = bench.scratch / f"{device}.npz"
        environment = {"JAX_PLATFORMS": platform} if platform else {}
        bench.run(
            f"classes_{device}",
            "-m",
            "benchmarks.gpu_classes",
            "resnet20_v2",
            str(files[device]),
            *map(str, bench.sizes.images),
            environment=environment,
        )
    here, cpu = (np.load(path) for path in files.values())
    others = int(np.sum(here["classes"] != cpu["classes"]))
    difference = np.abs(here["probabilities"] - cpu["probabilities"]).max()
    return (
        f"{others} of {len(here['classes']):,} images get another class; "
        f"probabilities differ by up to {difference:.0e}"
    )


# Name -> (the part, its time limit in seconds), the most important first.
PARTS = {
    "starts": (starts, 150),
    "speedrun": (speedrun, 110),
    "flags": (flags, 130),
    "whole": (whole, 240),
    "exact": (exact, 100),
    "pytorch": (pytorch, 400),
    "rival": (rival, 400),
}
NEED_CIFAR10 = {"starts", "speedrun", "whole", "exact", "rival"}


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, help="the folder to write to")
    add("--parts", type=lambda text: text.split(","), default=list(PARTS), help=", ".join(PARTS))
    add("--rival", default="", help="the path of airbench94_muon.py")
    add("--minutes", type=float, default=MINUTES, help=f"stop after this time ({MINUTES:g})")
    add("--small", action="store_true", help="try all parts on a CPU, with tiny networks")
    args = parser.parse_args(argv)
    unknown = sorted(set(args.parts) - PARTS.keys())
    if unknown:
        parser.error(f"--parts: no part {unknown[0]!r}; choose from {', '.join(PARTS)}")
    if args.rival and not os.path.isfile(args.rival):
        parser.error(f"--rival: there is no file {args.rival}")
    if not 0 < args.minutes < math.inf:
        parser.error("--minutes: must be above 0")
    return args


def measure(args, scratch: str) -> int:
    """Measures the parts in order. Returns 0 if nothing failed, else 1."""
    args.output.mkdir(parents=True, exist_ok=True)
    end = time.perf_counter() + 60 * args.minutes
    rival = os.path.abspath(args.rival) if args.rival else ""
    bench = Bench(args.output, Path(scratch), small() if args.small else on_a_gpu(), rival)
    bench.deadline = min(end, time.perf_counter() + 60)
    machine = describe_machine(bench)
    if not args.small and set(args.parts) & NEED_CIFAR10:
        # Decoding them takes longer than a start: not within what is measured.
        datasets.load(default.get_config().dataset, 0)
    complete = True
    for name in args.parts:
        part, seconds = PARTS[name]
        bench.deadline = min(end, time.perf_counter() + seconds)
        if bench.left() < 1:
            print(f"## {name}\n\nnot measured: the time was over\n", flush=True)
            complete = False
            continue
        driver.tell(f"{name}: {bench.left():.0f} s at most")
        path = args.output / f"{name}.md"
        keep_older(path)
        table = ("",), [("failed: it left no result",)]
        try:
            for table in part(bench):
                path.write_text(page(part, machine, table))
        except Exception as error:  # the other parts go on
            head, rows = table
            table = head, [*rows, (f"failed: {error!r}", *["-"] * (len(head) - 1))]
        text = page(part, machine, table)
        path.write_text(text)
        print(f"## {name}\n\n{text}", flush=True)
        complete &= "failed:" not in text and "not done" not in text
    return 0 if complete else 1


def page(part, machine: str, table: Table) -> str:
    """What a part measures, on which machine, and its table, in Markdown."""
    return f"{part.__doc__.splitlines()[0]}\n\n{machine}\n\n{common.table(*table)}\n"


def keep_older(path: Path) -> None:
    """Renames a file, if there is one, to the first free of NAME.1.md, NAME.2.md, ..."""
    number = 1
    while (older := path.with_suffix(f".{number}.md")).exists():
        number += 1
    with contextlib.suppress(FileNotFoundError):
        path.rename(older)


def describe_machine(bench: Bench) -> str:
    """Device, processor and versions, in words.

    Raises:
      UserError: JAX does not start, or has another device than is to be measured.
    """
    job = common.Job("machine", {}, "").to_json()
    try:
        found = result_of(bench.run("machine", "-m", "benchmarks.ours", job))
    except Failed as failed:
        raise UserError(f"JAX does not start: {failed}") from failed
    if found["platform"] != bench.sizes.device:
        raise UserError(
            f"JAX finds no {bench.sizes.device.upper()}, only {found['device']}: install "
            "requirements-cuda.txt and the driver of the GPU, or give --small"
        )
    return f"{found['device']}; {driver.describe_machine(found['versions'])}"


if __name__ == "__main__":
    sys.exit(driver.run_command(measure, arguments(sys.argv[1:])))
