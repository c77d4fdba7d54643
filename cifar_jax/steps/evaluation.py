"""The evaluation step: a pure function of one device, mapped over the axis "batch"."""

import jax
import jax.numpy as jnp
import optax
from jax import lax

from cifar_jax.runtime import parallel
from cifar_jax.steps import augment
from cifar_jax.steps.task import Task


def eval_sums(task: Task, views: str = "none", keep: bool = False):
    """Evaluation mapped over the devices: (variables, (images, labels)) -> (loss sum, confusion, kept).

    Every image counts exactly once, on any number of devices. The loss sum is float32 []. The confusion
    matrix is int32 [C, C], with a row for each true class and a column for each predicted one; it counts
    images or, in segmentation, pixels. Of each image, logits float32 [N, C] are kept or, in segmentation,
    predicted classes uint8 [N, size, size]; or None.

    Args:
      task: the run.
      views: a key of augment.VIEWS; the logits of an image are averaged over these views.
      keep: whether to return `Kind.kept` of each image.
    """
    classes = task.num_classes

    def logits_of(variables, images):
        inputs = augment.network_input(images, task.image_size, task.mean, task.std)
        return task.model.apply(variables, inputs, train=False)

    def averaged_logits(variables, images):
        # One view at a time takes no more memory, and compiles no more, than a single view.
        stacked, weights = augment.views(images, views)
        each = lax.map(lambda view: logits_of(variables, view), stacked)
        return jnp.tensordot(weights, task.kind.realigned(each), axes=1)

    predict = logits_of if views == "none" else averaged_logits

    def nothing_kept(variables, images):
        of_one = jax.eval_shape(
            lambda *args: task.kind.kept(logits_of(*args)), variables, images[:1]
        )
        return jnp.zeros((len(images), *of_one.shape[1:]), of_one.dtype)

    def run(variables, data):
        images, labels = data
        count = len(images)
        local = parallel.local_batch_size(min(task.config.eval_batch_size, count))
        batch = local * lax.axis_size(parallel.AXIS)

        def add(i, sums):
            index = i * batch + parallel.places(local)
            here = index < count
            index = jnp.minimum(index, count - 1)
            logits = predict(variables, images[index])
            label, counted = task.kind.counted(task, labels[index], here)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
            cell = label * classes + jnp.argmax(logits, -1)
            loss, confusion, kept = sums
            if keep:
                of_image = task.kind.kept(logits)
                here = here.reshape(-1, *[1] * (of_image.ndim - 1))
                kept = kept.at[index].add(jnp.where(here, of_image, 0))
            return (
                loss + jnp.sum(jnp.where(counted, losses, 0)),
                confusion.at[cell].add(counted.astype(jnp.int32)),
                kept,
            )

        start = (
            jnp.float32(0),
            jnp.zeros(classes * classes, jnp.int32),
            nothing_kept(variables, images) if keep else None,
        )
        sums = lax.fori_loop(0, -(-count // batch), add, start)
        loss, confusion, kept = lax.psum(sums, parallel.AXIS)
        return loss, confusion.reshape(classes, classes), kept

    return parallel.map_eval(run)
