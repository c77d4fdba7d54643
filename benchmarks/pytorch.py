"""The worker of PyTorch's side: the same training, written the way PyTorch does it fastest.

Images are one tensor on the device. Batches are cut and augmented by a few operations on the whole batch.
`choose` finds the fastest memory format, optimizer implementation, number of threads and mode of
torch.compile. The networks are the twins that the tests compare ours with.
"""

import contextlib
import dataclasses
import math
import os
import statistics

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import common
from tests.helpers import torch_twins

# Enough to distinguish settings that differ by more than a few per cent.
TRIAL_SECONDS = 3.0
# Small batches are cut from groups of about this many images, augmented together.
SMALL = 512
# The relative rounding error of float32.
ROUNDING = 1e-7


def create_network(config: dict) -> nn.Module:
    """The network of a recipe, from its config as a dictionary."""
    options = {key: value for key, value in config["model"].items() if value is not None}
    name, width = options["name"], options.get("width", 1.0)
    classes, size = common.CLASSES, config["dataset"]["image_size"]
    if name == "mlp":
        sizes = options.get("hidden_sizes", (1024,))
        return torch_twins.MLP(3 * size**2, classes, sizes, options.get("activation", "relu"))
    if name == "lenet":
        return torch_twins.LeNet(classes)
    if name == "mobilenet_v2":
        return torch_twins.MobileNetV2(classes, width)
    if name in ("resnet18", "resnet34"):
        blocks = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}[name]
        return torch_twins.ResNet(classes, blocks, round(64 * width))
    depth, version = name.removeprefix("resnet").split("_v")
    blocks = ((int(depth) - 2) // 6,) * 3
    return torch_twins.ResNet(
        classes,
        blocks,
        round(16 * width),
        pre_activation=version == "2",
        fcn_stride=options.get("fcn_stride"),
    )


def create_optimizer(config: dict, network: nn.Module, rate: float, implementation: str):
    """The optimizer of a recipe."""
    options = {
        "lr": rate,
        "weight_decay": config["weight_decay"],
        implementation: True,
    }
    if config["name"] == "sgd":
        momentum = {"momentum": config["momentum"], "nesterov": config["nesterov"]}
        return torch.optim.SGD(network.parameters(), **momentum, **options)
    betas = {"betas": (config["beta1"], config["beta2"]), "eps": config["epsilon"]}
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config["name"]]
    return kind(network.parameters(), **betas, **options)


def load_weights(network: nn.Module, reference: str) -> None:
    """Copies the weights of a reference file one by one, so that there is never a second copy of them all."""
    state = network.state_dict()
    missing = {name for name in state if not name.endswith("num_batches_tracked")}
    with np.load(reference) as arrays:
        for path in arrays:
            if "/" in path:
                collection, *modules, leaf = path.split("/")
                tree = {leaf: arrays[path]}
                for module in reversed(modules):
                    tree = {module: tree}
                for name, value in torch_twins.state_dict({collection: tree}).items():
                    state[name].copy_(value)
                    missing.remove(name)
    if missing:
        raise ValueError(f"no weights for {sorted(missing)}")


def memory_format(settings: common.Settings) -> torch.memory_format:
    return torch.channels_last if settings.channels_last else torch.contiguous_format


def device_of(job: common.Job) -> torch.device:
    return torch.device("cuda" if job.device == "gpu" else "cpu")


def prepare(job: common.Job, settings: common.Settings) -> nn.Module:
    """Applies the settings to this process and creates the network with our initial weights."""
    torch.set_num_threads(settings.threads)
    torch.backends.cudnn.benchmark = True
    network = create_network(job.config)
    if job.reference:
        load_weights(network, job.reference)
    return network.to(device_of(job), memory_format=memory_format(settings))


def compiled(function, settings: common.Settings):
    if not settings.compile:
        return function
    torch._dynamo.reset()
    return torch.compile(function, mode=settings.compile, dynamic=False)


def autocast(job: common.Job):
    return (
        torch.autocast("cuda", torch.bfloat16) if job.device == "gpu" else contextlib.nullcontext()
    )


class Images:
    """The images and labels on the device, in the memory format of the settings."""

    def __init__(self, job: common.Job, settings: common.Settings):
        images, labels = map(torch.from_numpy, common.load_batchable(job))
        if not settings.channels_last:
            images = images.permute(0, 3, 1, 2).contiguous()
        self.channels_last = settings.channels_last
        self.images, self.labels = images.to(device_of(job)), labels.long().to(device_of(job))
        self.padding = job.config["augment"]["crop_padding"]
        self.flip = job.config["augment"]["flip"]
        self.normalize = normalizer(job)

    def order(self) -> torch.Tensor:
        return torch.randperm(len(self.images), device=self.images.device)

    def batches(self, order: torch.Tensor, size: int):
        """Yields (float32 [batch, channel, height, width], labels) in the given order of the images.

        Small batches are cut from larger ones: an operation on four images costs as much as on many.
        """
        for index in order.split(max(size, SMALL // size * size)):
            images, labels = self._augmented(index)
            yield from zip(self.normalize(images).split(size), labels.split(size), strict=True)

    def _augmented(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(uint8 [batch, channel, height, width], labels): padded and cropped at random, flipped."""
        images = self.images[index]
        if self.padding:
            images = self._crop(images)
        images = images.permute(0, 3, 1, 2) if self.channels_last else images
        if self.flip:
            flip = torch.rand(len(images), device=images.device) < 0.5
            images = torch.where(flip[:, None, None, None], images.flip(3), images)
        return images, self.labels[index]

    def _crop(self, images: torch.Tensor) -> torch.Tensor:
        """Random crops: every possible crop is a view of the padded images, and one of them is copied."""
        p, first = self.padding, 1 if self.channels_last else 2
        size = images.shape[first]
        sides = (p, p, p, p)
        padded = F.pad(images, (0, 0, *sides) if self.channels_last else sides)
        views = padded.unfold(first, size, 1).unfold(first + 1, size, 1)
        # Unfolding appends the axes of the window: [batch, (channel,) y, x, (channel,) height, width].
        order = (0, 1, 2, 4, 5, 3) if self.channels_last else (0, 2, 3, 1, 4, 5)
        place = torch.arange(len(images), device=images.device)
        y, x = torch.randint(0, 2 * p + 1, (2, len(images)), device=images.device)
        return views.permute(order)[place, y, x]


def normalizer(job: common.Job):
    """uint8 [batch, channel, height, width] -> float32, as in `cifar_jax.steps.augment.normalize`."""
    mean, std = (torch.tensor(x, device=device_of(job)).view(3, 1, 1) for x in (job.mean, job.std))
    scale, shift = 1 / (255 * std), -mean / std
    return lambda images: torch.addcmul(shift, images.float(), scale)


def trainer(job: common.Job, settings: common.Settings, network: nn.Module | None = None):
    """`take(count)`, which runs training steps and waits until they are done."""
    network = (network or prepare(job, settings)).train()
    rate = job.config["lr_schedule"]["learning_rate"]
    optimizer = create_optimizer(job.config["optimizer"], network, rate, settings.optimizer)
    data, size = Images(job, settings), job.config["batch_size"]
    whole = len(data.images) // size * size

    def loss_of(images, labels):
        with autocast(job):
            return F.cross_entropy(network(images), labels)

    loss_of = compiled(loss_of, settings)

    def take(count):
        total = torch.zeros((), device=data.images.device)
        order = data.order()[:whole].repeat(math.ceil(count * size / whole))[: count * size]
        for images, labels in data.batches(order, size):
            loss = loss_of(images, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        if not math.isfinite(float(total)):
            raise FloatingPointError("the loss is not finite")

    return take


def evaluator(job: common.Job, settings: common.Settings, network: nn.Module | None = None):
    """`take(count)`, which evaluates batches and returns (sum of losses, number of correct predictions)."""
    network = (network or prepare(job, settings)).eval()
    data, size = Images(job, settings), job.config["eval_batch_size"]
    data.padding = data.flip = 0

    def sums_of(images, labels):
        with autocast(job):
            logits = network(images)
            loss = F.cross_entropy(logits, labels, reduction="sum")
        return torch.stack([loss.float(), (logits.argmax(1) == labels).sum()])

    sums_of = compiled(sums_of, settings)

    @torch.inference_mode()
    def take(count):
        order = torch.arange(count * size, device=data.images.device) % len(data.images)
        loss, correct = sum(sums_of(*batch) for batch in data.batches(order, size)).tolist()
        return loss, int(correct)

    return take


def train(job: common.Job) -> dict:
    """Measures training with the job's settings."""
    return common.measure(trainer(job, job.settings), job.seconds, job.steps) | facts()


def evaluate(job: common.Job) -> dict:
    """Measures evaluation with the job's settings. A step is one batch."""
    return common.measure(evaluator(job, job.settings), job.seconds, job.steps) | facts()


def tutorial(job: common.Job) -> dict:
    """Trains the recipe's epochs and measures the accuracy on the test images."""
    network = prepare(job, job.settings)
    take = trainer(job, job.settings, network)
    labels = np.load(os.path.join(job.data, "labels.npy"))
    for _ in range(job.config["num_epochs"]):
        take(len(labels) // job.config["batch_size"])
    test = dataclasses.replace(job, data=job.test_data)
    count = len(np.load(os.path.join(test.data, "labels.npy")))
    _, correct = evaluator(test, job.settings, network)(count // job.config["eval_batch_size"])
    return {"accuracy": correct / count}


def choose_training(job: common.Job) -> dict:
    """The fastest settings for training, and all times that were measured to find them."""
    return choose(job, trainer)


def choose_evaluation(job: common.Job) -> dict:
    return choose(job, evaluator)


def choose(job: common.Job, make) -> dict:
    """Tries the values of one setting after the other and keeps the fastest."""
    gpu = job.device == "gpu"
    candidates = {
        "channels_last": [True] if gpu else [False, True],
        "threads": [job.threads] if gpu else sorted({job.threads, 1}, reverse=True),
        "optimizer": ["fused"] if make is evaluator else ["fused", "foreach"],
    }
    if job.torch_compile:
        candidates["compile"] = ["", *job.torch_compile]
    settings = common.Settings(**{name: values[0] for name, values in candidates.items()})
    tried = {}

    def seconds(settings):
        if settings not in tried:
            measured = common.measure(make(job, settings), TRIAL_SECONDS)
            tried[settings] = statistics.median(measured["step"])
        return tried[settings]

    for name, values in candidates.items():
        versions = [dataclasses.replace(settings, **{name: value}) for value in values]
        settings = min(versions, key=seconds) if len(values) > 1 else versions[0]
    return {
        "settings": dataclasses.asdict(settings),
        "tried": {str(tried_one): seconds for tried_one, seconds in tried.items()},
    }


def check_training(job: common.Job) -> dict:
    """The losses of training on the reference's batches, from its weights and from slightly moved ones."""
    with np.load(job.reference) as arrays:
        batches, labels, rates = (arrays[name] for name in ("images", "labels", "rates"))
    found = {"losses": [], "moved": []}
    for name, losses in found.items():
        network = exact_network(job, moved=name == "moved").train()
        optimizer = create_optimizer(job.config["optimizer"], network, rates[0], "foreach")
        for images, label, rate in zip(batches, labels, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = float(rate)
            loss = exact_loss(network, images, label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return found


def check_evaluation(job: common.Job) -> dict:
    """The losses on the reference's batches, with its weights and with slightly moved ones."""
    with np.load(job.reference) as arrays:
        batches, labels = arrays["images"], arrays["labels"]
    found = {}
    with torch.inference_mode():
        for name in ("losses", "moved"):
            network = exact_network(job, moved=name == "moved").eval()
            found[name] = [
                exact_loss(network, *batch).item() for batch in zip(batches, labels, strict=True)
            ]
    return found


def exact_network(job: common.Job, moved: bool) -> nn.Module:
    """The network with the reference's weights, in float32 throughout."""
    network = prepare(job, common.Settings(channels_last=True, threads=job.threads))
    torch.backends.cudnn.allow_tf32 = False
    if moved:
        torch.manual_seed(0)
        with torch.no_grad():
            for weight in network.parameters():
                weight.mul_(1 + ROUNDING * torch.randn_like(weight))
    return network


def exact_loss(network, images, labels):
    device = next(network.parameters()).device
    images = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
    return F.cross_entropy(network(images), torch.from_numpy(labels).long().to(device))


def operations(job: common.Job) -> dict:
    """Operations in matrix products and convolutions for one image: forward, and with gradients."""
    network = create_network(job.config)
    size = job.config["dataset"]["image_size"]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, size, size))
    forward = counter.get_total_flops()
    # The gradient of each product is two products (only one in the first layer, which is small). Not
    # counted directly: PyTorch counts gradients of depthwise convolutions as if they were dense.
    return {"evaluate": forward, "train": 3 * forward}


def matmul(job: common.Job) -> dict:
    """Measures the operations per second of a large matrix product."""
    torch.set_num_threads(job.threads)
    size = common.matmul_size(job.device)
    dtype = torch.bfloat16 if job.device == "gpu" else torch.float32
    a, b = torch.randn(2, size, size, dtype=dtype, device=device_of(job))

    def multiply():
        torch.mm(a, b)
        if job.device == "gpu":
            torch.cuda.synchronize()

    return {"matmul": common.matmul_rate(multiply, size)} | facts()


def facts() -> dict:
    """Versions, device, and the peak memory of a GPU in MiB."""
    gpu = torch.cuda.is_available()
    return {
        "versions": {"torch": torch.__version__},
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "gpu_memory": torch.cuda.max_memory_allocated() / 2**20 if gpu else None,
    }


if __name__ == "__main__":
    common.run_worker(
        [
            train,
            evaluate,
            tutorial,
            choose_training,
            choose_evaluation,
            check_training,
            check_evaluation,
            operations,
            matmul,
        ]
    )
