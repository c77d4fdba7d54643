"""What the benchmark commands share: recipes, images, and workers in separate processes."""

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import common
from cifar_jax.data import datasets
from cifar_jax.errors import UserError
from cifar_jax.system import files, malloc
from configs import default

ROOT = Path(__file__).resolve().parents[1]

# A fully convolutional ResNet-20; each half of an image has a class of its own.
FCN = "fcn_resnet20_v2"
# Network -> the module of its recipe.
RECIPES = {
    "mlp": "configs.cifar100.mlp",
    "lenet": "configs.lenet",
    "resnet20_v2": "configs.resnet20_v2",
    "resnet18": "configs.resnet18",
    "mobilenet_v2": "configs.mobilenet_v2",
    FCN: "configs.segmentation.mosaic_scratch",
}

# At 0.1, networks with batch norm amplify roundings: if the initial weights move by 1e-7, PyTorch's losses
# after 20 steps change by 1 % (ResNet-20) and 50 % (MobileNetV2).
LEARNING_RATE = 0.001


def make_data(folder: str, data: str, count: int) -> tuple[tuple, tuple]:
    """Writes the images for the workers into a folder. Returns their (mean, standard deviation)."""
    if data == "synthetic":
        common.save_images(folder, *common.synthetic_images(count))
        return common.MEAN, common.STD
    config = default.get_config()
    dataset = datasets.load(config.dataset, config.seed)
    common.save_images(folder, dataset.train.images, dataset.train.labels)
    return dataset.mean, dataset.std


def recipe(model: str, batch_size: int, **model_options) -> dict:
    """The config of a network's recipe as a dictionary, with the same batch size for evaluation.

    The learning rate is at most LEARNING_RATE. It affects no cost.
    """
    name = RECIPES.get(model, "configs.resnet20_v2")
    config = importlib.import_module(name).get_config()
    config.batch_size = config.eval_batch_size = batch_size
    if model == FCN:
        config.dataset.image_size = 32
        config.augment.flip = False  # PyTorch's side would have to flip masks too
    else:
        config.model.update({"name": model} | model_options)
    config.lr_schedule.learning_rate = min(config.lr_schedule.learning_rate, LEARNING_RATE)
    return config.to_dict()


def create_job(config: dict, data: str, statistics: tuple, **fields) -> common.Job:
    """A job on the images in the folder `data`.

    `statistics` are their (mean, standard deviation), used if the recipe sets none.
    """
    own = config["dataset"]
    mean, std = own["mean"] or statistics[0], own["std"] or statistics[1]
    fields = {"task": ""} | fields
    return common.Job(config=config, data=data, mean=tuple(mean), std=tuple(std), **fields)


def with_dtype(config: dict, dtype: str) -> dict:
    return config | {"model": config["model"] | {"dtype": dtype}}


def work(side: str, job: common.Job, **environment: str) -> dict:
    """Runs a job of a side ("ours" or "pytorch") in a new process and returns its result.

    The process reuses no compiled program.

    Raises:
      UserError: the worker failed. Its output is on standard error.
    """
    with tempfile.TemporaryDirectory() as cache, bound_to(job.threads):
        worker = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{side}", job.to_json()],
            cwd=ROOT,
            env={
                **os.environ,
                "JAX_PLATFORMS": {"cpu": "cpu", "gpu": "cuda"}[job.device],
                "JAX_ENABLE_COMPILATION_CACHE": "false",
                "GLIBC_TUNABLES": malloc.SETTINGS,  # as in main.py; they help PyTorch too
                "TORCHINDUCTOR_CACHE_DIR": cache,
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )
    if worker.returncode:
        sys.stderr.write(worker.stderr)
        raise UserError(f"the worker benchmarks.{side} failed at {job.task!r}, see above")
    return json.loads(worker.stdout.splitlines()[-1])


@contextlib.contextmanager
def bound_to(count: int):
    """Limits processes started in this context to some cores. JAX chooses its number of threads by them."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def positive(text: str) -> int:
    """A type of flags: a whole number of at least 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError("must be a whole number of at least 1")
    return int(text)


def add_threads(parser) -> None:
    """Adds the flag --threads."""

    def count(text):
        if not 1 <= int(text) <= cores():
            raise argparse.ArgumentTypeError(f"must be from 1 to {cores()} on this machine")
        return int(text)

    parser.add_argument("--threads", type=count, default=cores(), help="CPU cores to use (all)")


def run_command(command, *args) -> int:
    """Calls `command(*args, folder)` with a temporary folder. Returns the exit status.

    SIGTERM and SIGHUP end it as Ctrl-C does: it stops the programs that it has started.
    """
    ends = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.default_int_handler) for number in ends]
    try:
        with tempfile.TemporaryDirectory() as folder:
            return command(*args, folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename or 'a file'}: {files.reason(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        for number, handler in zip(ends, before, strict=True):
            signal.signal(number, handler)


def need_pytorch() -> None:
    """Raises UserError if PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise UserError("PyTorch is missing: pip install -r benchmarks/requirements.txt")


def tell(line: str) -> None:
    """Prints a line of progress."""
    print(line, file=sys.stderr, flush=True)


def describe_machine(versions: dict) -> str:
    """The processor and the versions, in words."""
    name = platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        name = names[0] if names else name
    versions = {"Python": platform.python_version()} | versions
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{name} with {os.cpu_count()} cores; {listed}"
