"""The examples of a step: which they are, in which order an epoch visits them, and which are mirrored."""

import jax

from cifar_jax.steps import augment
from cifar_jax.steps.state import random_keys


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Whole batches in an epoch. The last partial batch is dropped, as is customary."""
    return num_examples // batch_size


def epoch_order(seed, epoch, num_examples: int):
    """The order in which an epoch visits the examples: int32 [num_examples]."""
    return jax.random.permutation(
        jax.random.fold_in(random_keys(seed)["order"], epoch), num_examples
    )


def examples(task, data, order, step, places):
    """Some examples of a step's global batch, as they are stored.

    Args:
      task: the run.
      data: (images uint8 [N, height, width, 3], labels [N, ...]).
      order: int32 [N], the order of this epoch.
      step: int32 [].
      places: int32 [batch], places in the global batch.

    Returns:
      (images, labels, mirrored): whether each image is mirrored, bool [batch], or None if that is drawn in
      the augmentation.
    """
    config = task.config
    images, labels = data
    per_epoch = steps_per_epoch(len(images), config.batch_size)
    index = order[step % per_epoch * config.batch_size + places]
    mirrored = None
    if config.augment.alternating_flip:
        flip_key = random_keys(task.root_seed)["flip"]
        mirrored = augment.alternating(flip_key, index, step // per_epoch)
    return images[index], labels[index], mirrored
