"""Images and labels: TensorFlow Datasets, the official CIFAR archives, picture folders, and digits.

Take from here: `datasets` (`load` returns a `Dataset` of uint8 images, already split), `pictures` (finds and
decodes picture files), `masks` (the classes of pixels) and `LARGEST_IMAGE`. The other modules are sources,
one for each form of data.
"""

from cifar_jax.data.pictures import LARGEST_IMAGE

__all__ = ["LARGEST_IMAGE", "datasets", "masks", "pictures"]
