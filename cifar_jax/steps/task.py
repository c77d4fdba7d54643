"""What the training and the evaluation step of a run share and never change."""

import dataclasses
from typing import Any

import optax
from flax import linen as nn
from ml_collections import ConfigDict

from cifar_jax.steps.classification import CLASSIFICATION
from cifar_jax.steps.kind import Kind


@dataclasses.dataclass(frozen=True)
class Task:
    """What the steps of a run use and never change.

    Attributes:
      model: built with axis_name=parallel.AXIS.
      optimizer: the Optax chain.
      config: the whole config.
      num_classes: the number of classes, C.
      mean, std: per channel, for pixels scaled to [0, 1].
      image_size: height and width of the network's input; smaller images are enlarged to it. None: the
        size of the images.
      seed: uint32 [], the source of all randomness, where it is an argument of a compiled program. None: the
        seed of the config.
      kind: classification or segmentation, as the model's outputs.
    """

    model: nn.Module
    optimizer: optax.GradientTransformation
    config: ConfigDict
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int | None = None
    seed: Any = None
    kind: Kind = CLASSIFICATION

    @property
    def root_seed(self):
        return self.config.seed if self.seed is None else self.seed
