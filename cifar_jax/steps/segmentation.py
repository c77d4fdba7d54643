"""The steps of semantic segmentation: one label for each pixel, uint8 [N, height, width].

Pixels with the label `masks.VOID` count nowhere: neither in the loss nor in any figure.
"""

import jax
import jax.numpy as jnp
import optax
from jax import lax

from cifar_jax.data import masks
from cifar_jax.runtime import parallel
from cifar_jax.steps import augment
from cifar_jax.steps.batch import examples
from cifar_jax.steps.kind import Kind
from cifar_jax.steps.state import step_keys


def training_batch(task, data, order, step, places):
    """Some examples of a step's global batch, as the network gets them.

    Args:
      task: the run.
      data: (images uint8 [N, height, width, 3], masks uint8 [N, height, width]).
      order: int32 [N], the order of this epoch.
      step: int32 [].
      places: int32 [batch], places in the global batch.

    Returns:
      (images float32 [batch, size, size, 3], masks uint8 [batch, size, size], the same masks).
    """
    images, labels, mirrored = examples(task, data, order, step, places)
    key = step_keys(task.root_seed, step)["augment"]
    pixels, labels = augment.augment(
        key,
        places,
        images,
        task.config.augment,
        task.mean,
        task.std,
        task.image_size,
        mirrored,
        labels,
    )
    return pixels, labels, labels


def _loss(task, logits, labels, targets):
    """The mean cross-entropy over the counted pixels of the global batch; `correct` in examples."""
    del targets
    labels, counted = _counted(labels)
    losses = _cross_entropy(logits, labels, task.config.label_smoothing)
    number = jnp.sum(counted.astype(jnp.float32))
    # The mean over the devices of what each returns must be a mean over all pixels.
    number = jnp.maximum(lax.psum(number, parallel.AXIS), 1)
    devices = lax.axis_size(parallel.AXIS)
    loss = jnp.sum(jnp.where(counted, losses, 0)) * (devices / number)
    right = jnp.sum((counted & (jnp.argmax(logits, -1) == labels)).astype(jnp.float32))
    return loss, right * (task.config.batch_size / number)


def _cross_entropy(logits, labels, smoothing: float):
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if not smoothing:
        return losses
    uniform = jnp.mean(-jax.nn.log_softmax(logits), -1)
    return (1 - smoothing) * losses + smoothing * uniform


def _counted(labels):
    """(int32 labels, 0 where there is none; bool, where there is one)."""
    counted = labels != masks.VOID
    return jnp.where(counted, labels, 0).astype(jnp.int32), counted


def _counted_here(task, labels, here):
    labels, counted = _counted(augment.enlarge_masks(labels, task.image_size))
    return labels, counted & here[:, None, None]


def _realigned(logits):
    """Every second view is a mirror image."""
    return logits.at[1::2].set(logits[1::2, :, :, ::-1])


SEGMENTATION = Kind(
    training_batch=training_batch,
    loss=_loss,
    correct_dtype=jnp.float32,
    counted=_counted_here,
    realigned=_realigned,
    kept=lambda logits: jnp.argmax(logits, -1).astype(jnp.uint8),
)
