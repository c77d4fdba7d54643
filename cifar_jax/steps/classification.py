"""The steps of classification: one label for each image, int32 [N]."""

import jax
import jax.numpy as jnp
import optax

from cifar_jax.steps import augment
from cifar_jax.steps.batch import examples
from cifar_jax.steps.kind import Kind
from cifar_jax.steps.state import step_keys


def training_batch(task, data, order, step, places):
    """Some examples of a step's global batch, as the network gets them.

    Args:
      task: the run.
      data: (images uint8 [N, height, width, 3], labels int32 [N]).
      order: int32 [N], the order of this epoch.
      step: int32 [].
      places: int32 [batch], places in the global batch.

    Returns:
      (images float32 [batch, size, size, 3], labels int32 [batch], targets float32 [batch, C]).
      Accuracy is measured on the labels (with mixup: the label of the larger share), the loss on the
      targets, which are distributions over the classes.
    """
    config, mean, std, size = task.config, task.mean, task.std, task.image_size
    keys = step_keys(task.root_seed, step)

    def batch(places):
        images, labels, mirrored = examples(task, data, order, step, places)
        pixels = augment.augment(
            keys["augment"], places, images, config.augment, mean, std, size, mirrored
        )
        return pixels, labels, jax.nn.one_hot(labels, task.num_classes)

    if not config.augment.mixup:
        pixels, label, target = batch(places)
    else:
        # The partner may belong to another device. It is made again here, with the key of its own place.
        partner, share = augment.mixup_pairs(keys["mixup"], config.batch_size, config.augment.mixup)
        made = batch(jnp.concatenate([places, partner[places]]))
        (pixels, other_pixels), (label, other_label), (target, other_target) = (
            jnp.split(each, 2) for each in made
        )
        pixels = share * pixels + (1 - share) * other_pixels
        target = share * target + (1 - share) * other_target
        label = jnp.where(share >= 0.5, label, other_label)
    target = optax.smooth_labels(target, config.label_smoothing)
    return pixels, label, target


def _loss(task, logits, labels, targets):
    del task
    loss = optax.softmax_cross_entropy(logits, targets).mean()
    return loss, jnp.sum(jnp.argmax(logits, -1) == labels)


CLASSIFICATION = Kind(
    training_batch=training_batch,
    loss=_loss,
    correct_dtype=jnp.int32,
    counted=lambda task, labels, here: (labels, here),
    realigned=lambda logits: logits,
    kept=lambda logits: logits,
)
