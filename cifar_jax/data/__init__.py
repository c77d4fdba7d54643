"""Images and labels: TensorFlow Datasets, the official CIFAR archives, picture folders, and digits.

Take from here: `datasets` (`load` gives a `Dataset` of uint8 images, already split) and `pictures`
(finding and decoding picture files). All other modules are sources, one per form that images come in.
"""

from cifar_jax.data.pictures import LARGEST_IMAGE

__all__ = ["LARGEST_IMAGE", "datasets", "pictures"]
