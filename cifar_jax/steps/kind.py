"""`Kind`: all that the steps do differently for classification and for segmentation."""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a network learns: the class of an image, or the class of each pixel.

    Attributes:
      training_batch: (task, data, order, step, places) -> (images, labels, targets), a part of a step's
        global batch as the network gets it. The loss is measured on the targets, accuracy on the labels.
      loss: (task, logits, labels, targets) -> (loss, correct). The mean of `loss` over the devices is the
        loss of the global batch. The sum of `correct` over them is the number of its correct examples.
      correct_dtype: that of `correct`.
      counted: (task, labels, here) -> (labels of the network's outputs, which of them count in evaluation);
        `here`, bool [batch], tells which images count.
      realigned: logits [views, batch, ...] of `augment.views` -> the same, each pixel at its place in the
        image.
      kept: logits -> what an evaluation returns of each image if it is asked to.
    """

    training_batch: Callable
    loss: Callable
    correct_dtype: Any
    counted: Callable
    realigned: Callable
    kept: Callable
