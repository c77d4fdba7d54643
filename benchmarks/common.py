"""What the workers of both sides share: the job, timing, memory and images.

Imports neither JAX nor PyTorch, so that the memory of a worker is that of its own framework alone.
"""

import dataclasses
import itertools
import json
import math
import os
import resource
import statistics
import sys
import time

import numpy as np

CLASSES = 10
# Of CIFAR-10, also used for synthetic images.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
# Starts each line with which a worker of `serve` answers.
ANSWER = "answer: "
# The approximate length of one measured stretch of steps.
STRETCH_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """How PyTorch runs; `pytorch.py` chooses the fastest.

    Attributes:
      channels_last: the memory format of images and kernels.
      threads: the number of threads of one operation.
      optimizer: the implementation, "fused" or "foreach".
      compile: the mode of torch.compile, or "" for none.
    """

    channels_last: bool = False
    threads: int = 1
    optimizer: str = "fused"
    compile: str = ""

    def __str__(self):
        words = ["channels_last" if self.channels_last else "contiguous", self.optimizer]
        words.append(f"{self.threads} thread{'s' if self.threads > 1 else ''}")
        return ", ".join([*words, *([f"compile {self.compile}"] if self.compile else [])])


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker has to do. It receives this as JSON.

    Attributes:
      task: the name of one of the worker's functions.
      config: a resolved recipe, from `ConfigDict.to_dict`.
      data: a folder with the images.npy and labels.npy of `save_images`.
      test_data: the same for the test images.
      mean, std: per channel, for pixels scaled to [0, 1].
      device: "cpu" or "gpu".
      threads: CPU cores that the worker may use.
      seconds: how long to measure.
      steps: steps in one measured stretch; 0: about one second's worth.
      input_seconds: how long to measure the making of batches alone; 0: not.
      check_steps: the number of steps whose losses are compared.
      reference: an .npz file with our initial weights, batches and losses.
      torch_compile: the modes of torch.compile that may be chosen.
      settings: how PyTorch runs.
    """

    task: str
    config: dict
    data: str
    mean: tuple = MEAN
    std: tuple = STD
    device: str = "cpu"
    threads: int = 1
    seconds: float = 10.0
    steps: int = 0
    input_seconds: float = 2.0
    check_steps: int = 20
    reference: str = ""
    test_data: str = ""
    torch_compile: tuple = ()
    settings: Settings = Settings()

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        fields = json.loads(text)
        return cls(**fields | {"settings": Settings(**fields["settings"])})


def run_worker(tasks) -> None:
    """Does the job on the command line and prints its result as the last line, in JSON."""
    job = Job.from_json(sys.argv[1])
    functions = {function.__name__: function for function in tasks}
    print("\n" + json.dumps(functions[job.task](job)), flush=True)


def serve(facts: dict, run) -> None:
    """Prints `facts` when ready, then the result of `run(number)` for each number on standard input."""
    for answer in itertools.chain([facts], map(run, map(int, sys.stdin))):
        print(ANSWER + json.dumps(answer), flush=True)


def measure(take, seconds: float, steps: int = 0) -> dict:
    """Times `take(count)`, which runs `count` steps and waits until they are done.

    The first call compiles and is measured separately. Then stretches of `steps` steps (0: about one
    second's worth) are measured until `seconds` have passed, but at least three.

    Returns:
      {"first_call": seconds, "step": [seconds per step in each stretch], "memory": the peak in MiB since
      the process started, "memory_after_first": the peak in MiB after the first call}
    """
    first_call = timed(take, 1)
    reset_peak_memory()
    if not steps:
        steps = 1
        while (spent := timed(take, steps)) < STRETCH_SECONDS / 2:
            steps *= 4 if spent < STRETCH_SECONDS / 8 else 2
        steps = max(1, round(steps * STRETCH_SECONDS / spent))
    else:
        timed(take, steps)
    spent = []
    while len(spent) < 3 or sum(spent) < seconds:
        spent.append(timed(take, steps))
    after = peak_memory()
    return {
        "first_call": first_call,
        "step": [x / steps for x in spent],
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "memory_after_first": after,
    }


def timed(function, *args) -> float:
    """The seconds that a call takes."""
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def reset_peak_memory() -> None:
    """Restarts the measurement of `peak_memory`."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak_memory() -> float:
    """The peak resident memory of this process since `reset_peak_memory`, in MiB."""
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def matmul_rate(multiply, size: int) -> float:
    """The highest operations per second of `multiply()`, a product of two square matrices, in 10 runs."""
    multiply()
    return 2 * size**3 / min(timed(multiply) for _ in range(10))


def matmul_size(device: str) -> int:
    return 8192 if device == "gpu" else 2048


def synthetic_images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [count, 32, 32, 3] and labels int32 [count] that a network learns slowly.

    Each class is a coarse, faint pattern under noise, and 30 % of the labels are drawn at random. So losses
    neither diverge, as with pure noise, nor vanish, as with images that are easy to learn.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, count, dtype=np.int32)
    coarse = rng.integers(0, 64, (CLASSES, 4, 4, 3), dtype=np.uint8)
    patterns = coarse.repeat(8, 1).repeat(8, 2)
    images = rng.integers(0, 192, (count, 32, 32, 3), dtype=np.uint8)
    for start in range(0, count, 1000):
        part = slice(start, start + 1000)
        images[part] += patterns[labels[part]]
    wrong = rng.random(count) < 0.3
    labels[wrong] = rng.integers(0, CLASSES, wrong.sum())
    return images, labels


def save_images(folder: str, images: np.ndarray, labels: np.ndarray) -> None:
    np.save(os.path.join(folder, "images.npy"), images)
    np.save(os.path.join(folder, "labels.npy"), labels.astype(np.int32))


def load_images(folder: str) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.load(os.path.join(folder, f"{name}.npy")) for name in ("images", "labels"))


def load_batchable(job: Job) -> tuple[np.ndarray, np.ndarray]:
    """`load_images`; for a segmentation network, with masks uint8 [count, size, size] instead of labels.

    The left half of a mask is the label of its image, the right half the class after that.
    """
    images, labels = load_images(job.data)
    if job.config["model"].get("fcn_stride") is None:
        return images, labels
    size = images.shape[1]
    right = np.arange(size) >= size // 2
    masks = (labels[:, None, None] + right[None, None, :]) % CLASSES
    return images, np.repeat(masks, size, axis=1).astype(np.uint8)


def summary(values) -> str:
    """The text "median (lowest to highest)"."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{figure(middle)} ({figure(low)} to {figure(high)})"


def figure(value: float) -> str:
    """Three significant figures, without an exponent."""
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{round(value, digits):,.{max(digits, 0)}f}"


def table(head: tuple[str, ...], rows: list[tuple]) -> str:
    """A Markdown table."""
    return "\n".join(map(row, [head, ["---"] * len(head), *rows]))


def row(cells) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |"
