"""Measures how the cost of training grows with images, batch, depth and devices.

  python -m benchmarks.scaling
  python -m benchmarks.scaling --what=depth,batch --seconds=20

Each row is measured in a process of its own, on synthetic images. The devices are simulated and share the
cores of this machine, so they show what splitting a batch costs, never a gain.
"""

import argparse
import statistics
import sys

from benchmarks import common, driver
from cifar_jax.errors import UserError

# What grows -> (what is measured, the values, the network).
GROWTHS = {
    "images": ("an epoch of LeNet, batch 128", (12_500, 25_000, 50_000), "lenet"),
    "batch": ("a step of ResNet-20 v2", (32, 64, 128, 256), "resnet20_v2"),
    "depth": ("a step of a ResNet v2, batch 128", (8, 14, 20, 32, 44), "resnet{}_v2"),
    "devices": (
        "a step of ResNet-20 v2, global batch 128, split over simulated devices",
        (1, 2, 4, 8),
        "resnet20_v2",
    ),
}


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    kinds = ", ".join(GROWTHS)
    add("--what", type=lambda text: text.split(","), default=list(GROWTHS), help=kinds)
    add("--device", choices=["cpu", "gpu"], default="cpu", help="a GPU cannot measure devices")
    driver.add_threads(parser)
    add("--seconds", type=float, default=10.0, help="time to measure for each row (10)")
    args = parser.parse_args(argv)
    unknown = [kind for kind in args.what if kind not in GROWTHS]
    if unknown:
        parser.error(f"--what: no {unknown[0]!r}; choose from {kinds}")
    return args


def grow(args, folder: str) -> int:
    """Prints a table for each kind in --what."""
    if "devices" in args.what and args.device == "gpu":
        raise UserError("devices are simulated on the CPU only: leave them out of --what")
    for kind in args.what:
        title, values, _ = GROWTHS[kind]
        rows, first, result = [], None, None
        for value in values:
            result, seconds, images = measure(args, kind, value, folder)
            first = first or (value, seconds)
            row = (
                f"{value:,}",
                f"{value / first[0]:.2f}",
                common.figure(seconds),
                f"{seconds / first[1]:.2f}",
                common.figure(images / seconds),
                f"{result['first_call']:.1f}",
                f"{result['gpu_memory'] or result['memory']:.0f}",
            )
            driver.tell(f"{kind} {value}: {row[2]} s")
            rows.append(row)
        head = (
            kind,
            "relative size",
            "seconds",
            "relative time",
            "images/s",
            "first call in s",
            "memory in MiB",
        )
        print(f"Cost of {title}:\n\n{common.table(head, rows)}\n", flush=True)
    print(driver.describe_machine(result["versions"]) + f"; {args.threads} threads")
    return 0


def measure(args, kind: str, value: int, folder: str) -> tuple[dict, float, int]:
    """(The worker's result, the seconds of a unit, the images in it). A unit is a step or an epoch."""
    network = GROWTHS[kind][2].format(value)
    batch = value if kind == "batch" else 128
    images = value if kind == "images" else 12_500
    unit = images // batch if kind == "images" else 1
    options = {"dtype": "bfloat16"} if args.device == "gpu" else {}
    image_statistics = driver.make_data(folder, "synthetic", images)
    job = driver.create_job(
        driver.recipe(network, batch, **options),
        folder,
        image_statistics,
        task="train",
        device=args.device,
        threads=args.threads,
        seconds=args.seconds,
        # Whole epochs, so that costs per epoch are counted once.
        steps=unit if kind == "images" else 0,
    )
    flags = {}
    if kind == "devices":
        flags["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={value}"
    result = driver.work("ours", job, **flags)
    return result, unit * statistics.median(result["step"]), unit * batch


if __name__ == "__main__":
    sys.exit(driver.run_command(grow, arguments(sys.argv[1:])))
