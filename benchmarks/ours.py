"""The worker of our side: the project's own functions, called as `cifar_jax.training` calls them."""

import functools
import json
import statistics
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from cifar_jax import config as config_lib
from cifar_jax import steps, training
from cifar_jax.data import datasets
from cifar_jax.runtime import parallel, programs
from cifar_jax.steps import EpochMetrics, augment, inference_variables
from configs import default


def create_run(job: common.Job) -> training.Run:
    """A run of the job's recipe on its images."""
    config = config_lib.from_json(json.dumps(job.config), default.get_config())
    config_lib.validate(config, default.FIELDS)
    parallel.check_batch_size(config.batch_size)
    split = datasets.Split(*map(datasets.aligned, common.load_batchable(job)))
    names = tuple(str(i) for i in range(common.CLASSES))
    dataset = datasets.Dataset(
        "benchmark", split, split, None, names, tuple(job.mean), tuple(job.std)
    )
    return training.create_run(config, "", dataset)


def train(job: common.Job) -> dict:
    """Measures training: many steps per dispatch, on images that are on the device."""
    run = create_run(job)
    split = run.dataset.train
    data = parallel.place((split.images, split.labels))
    train_steps, seed = steps.train_steps(run.task), np.uint32(run.config.seed)
    state = parallel.replicate(training.first_state(run))
    compiled = {}

    def take(count):
        # After the end of an epoch, this keeps using the same order, which does not affect the time.
        nonlocal state, compiled
        arguments = (state, data, seed, np.int32(count))
        if not compiled:
            wanted = {"training": (train_steps, arguments)}
            compiled = programs.compile_together(wanted, run.autotune_level)
        state, metrics = compiled["training"](*arguments)
        failed = int(parallel.unreplicate(metrics).failed_step)
        if failed >= 0:
            raise FloatingPointError(f"the loss is not finite at step {failed}")

    measured = common.measure(take, job.seconds, job.steps)
    if job.input_seconds:
        inputs = common.measure(batch_maker(run, data), job.input_seconds)
        measured["input"] = statistics.median(inputs["step"])
    return measured | facts()


def batch_maker(run: training.Run, data):
    """`take(count)`, which makes the augmented batches of `count` steps and does nothing with them."""
    task = run.task
    places = np.arange(task.config.batch_size, dtype=np.int32)

    @jax.jit
    def make(data, count):
        order = steps.epoch_order(task.config.seed, 0, len(data[0]))
        batch = functools.partial(steps.training_batch, task, data, order, places=places)
        zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(lambda: batch(step=0)))
        return jax.lax.fori_loop(0, count, lambda step, _: batch(step=step), zeros)

    return lambda count: jax.block_until_ready(make(data, np.int32(count)))


def evaluate(job: common.Job) -> dict:
    """Measures exact evaluation as `cifar_jax.inference.evaluate` does it. A step is one batch."""
    run = create_run(job)
    split, batch = run.dataset.train, run.config.eval_batch_size
    variables = parallel.replicate(inference_variables(training.first_state(run)))
    eval_sums = steps.eval_sums(run.task)

    def evaluator(batches):
        index = np.arange(batches * batch) % len(split.images)
        data = parallel.place((split.images[index], split.labels[index]))
        return lambda _=1: jax.block_until_ready(eval_sums(variables, data))

    # A program is compiled for a fixed number of images, so first find out how many take about one second.
    one = evaluator(1)
    first_call, seconds = common.timed(one), common.timed(one)
    batches = max(1, round(common.STRETCH_SECONDS / seconds))
    measured = common.measure(evaluator(batches), job.seconds, 1)
    measured["step"] = [seconds / batches for seconds in measured["step"]]
    return measured | {"first_call": first_call} | facts()


def reference_training(job: common.Job) -> dict:
    """Writes the initial weights, and the batches, learning rates and losses of the first steps."""
    run = create_run(job)
    task, split = run.task, run.dataset.train
    places = np.arange(run.config.batch_size, dtype=np.int32)

    @jax.jit
    def batch_of(data, step):
        epoch = step // run.steps_per_epoch
        order = steps.epoch_order(task.config.seed, epoch, len(split.images))
        images, labels, _ = steps.training_batch(task, data, order, step, places)
        return images, labels

    data = parallel.place((split.images, split.labels))
    batches = [jax.device_get(batch_of(data, step)) for step in range(job.check_steps)]
    train_steps, seed = steps.train_steps(task), np.uint32(task.config.seed)
    zero = jax.device_get(EpochMetrics.zero(task.kind.correct_dtype))
    first = training.first_state(run)
    state, losses = parallel.replicate(first), []
    for _ in range(job.check_steps):
        # Start from zero each time: differences of sums would lose digits.
        state = state.replace(metrics=parallel.replicate(zero))
        state, metrics = train_steps(state, data, seed, np.int32(1))
        losses.append(float(parallel.unreplicate(metrics).loss))
    rates = [float(run.schedule(step)) for step in range(job.check_steps)]
    return write_reference(job, first, batches, losses, rates)


def reference_evaluation(job: common.Job) -> dict:
    """Writes the initial weights, and the first evaluated batches and their losses."""
    run = create_run(job)
    split, batch = run.dataset.train, run.config.eval_batch_size
    first = training.first_state(run)
    variables = parallel.replicate(inference_variables(first))
    eval_sums = steps.eval_sums(run.task)
    batches, losses = [], []
    for start in range(0, job.check_steps * batch, batch):
        index = np.arange(start, start + batch) % len(split.images)
        images, labels = split.images[index], split.labels[index]
        loss, _, _ = parallel.unreplicate(eval_sums(variables, parallel.place((images, labels))))
        batches.append((augment.normalize(images, job.mean, job.std), labels))
        losses.append(float(loss) / labels.size)
    return write_reference(job, first, batches, losses, rates=[])


def write_reference(job, first_state, batches, losses, rates) -> dict:
    variables = {"params": first_state.params, "batch_stats": first_state.batch_stats}
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }
    images, labels = zip(*batches, strict=True)
    np.savez(job.reference, **leaves, images=images, labels=labels, losses=losses, rates=rates)
    return {"losses": losses}


def matmul(job: common.Job) -> dict:
    """Measures the operations per second of a large matrix product."""
    size = common.matmul_size(job.device)
    dtype = jnp.bfloat16 if job.device == "gpu" else jnp.float32
    a, b = jax.random.normal(jax.random.key(0), (2, size, size), dtype)
    product = jax.jit(jnp.matmul)
    rate = common.matmul_rate(lambda: product(a, b).block_until_ready(), size)
    return {"matmul": rate} | facts()


def machine(job: common.Job) -> dict:
    """Versions, device and platform."""
    return facts() | {"platform": jax.default_backend()}


def facts() -> dict:
    """Versions, device, and the peak memory of a GPU in MiB."""
    memory = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")}
    return {
        "versions": versions,
        "device": parallel.describe(),
        "gpu_memory": memory and memory / 2**20,
    }


if __name__ == "__main__":
    common.run_worker([train, evaluate, reference_training, reference_evaluation, matmul, machine])
