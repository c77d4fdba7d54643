"""airbench94 and airbench96: a frozen whitening convolution, then six or nine 3x3 convolutions.

Keller Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024. airbench94 has the widths of its
sequel with Muon (https://github.com/KellerJordan/cifar10-airbench, airbench94_muon.py), airbench96 those
of legacy/airbench96.py in the same repository.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from cifar_jax.models import layers


class Airbench(nn.Module):
    """images [batch, height, width, 3] -> logits float32 [batch, num_classes].

    A whitening 2x2 convolution (`layers.Whitening`) and the activation come first; without `whitening`,
    the groups get the images themselves. Then come three groups of `channels` (times `width`), each:
    convolution, 2x2 max pooling, batch norm, activation, convolution, batch norm, activation. With
    `convolutions` 3, a third convolution and batch norm follow, and the sum with the first activation,
    activated. Last are the maximum over the remaining pixels (3x3 for images of 32x32) and a dense layer
    without bias.

    Batch norm has no scale, and keeps 0.6 of its running statistics in each step. The first filters of a
    convolution pass on one channel each (`layers.dirac`); the others have PyTorch's default. The dense
    layer is uniform with standard deviation 1/fan_in. (The original draws it with deviation 1 and divides
    the logits by fan_in. That is equivalent, with learning rates that differ by fan_in squared.)
    """

    num_classes: int
    channels: tuple[int, int, int]
    convolutions: int
    width: float = 1.0
    activation: str = "gelu"
    whitening: bool = True
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None
    sync_batch_norm: bool = True

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        activation = layers.ACTIVATIONS[self.activation]
        norm = functools.partial(
            layers.BatchNorm,
            momentum=0.6,
            epsilon=1e-12,
            use_scale=False,
            dtype=self.dtype,
            axis_name=self.axis_name if self.sync_batch_norm else None,
        )

        def conv(channels, name):
            return layers.Conv(
                channels,
                (3, 3),
                padding=1,
                use_bias=False,
                kernel_init=layers.dirac,
                dtype=self.dtype,
                name=name,
            )

        x = images
        if self.whitening:
            x = activation(layers.Whitening(dtype=self.dtype, name="whitening")(x))
        for group, channels in enumerate(self.channels, start=1):
            channels = max(1, round(channels * self.width))
            x = layers.max_pool(conv(channels, f"group{group}_conv1")(x), window=2, stride=2)
            x = activation(norm(name=f"group{group}_bn1")(x, train))
            shortcut = x
            x = conv(channels, f"group{group}_conv2")(x)
            x = activation(norm(name=f"group{group}_bn2")(x, train))
            if self.convolutions == 3:
                x = conv(channels, f"group{group}_conv3")(x)
                x = activation(shortcut + norm(name=f"group{group}_bn3")(x, train))
        x = jnp.max(x, axis=(1, 2))
        head = layers.Dense(
            self.num_classes,
            use_bias=False,
            kernel_init=layers.uniform_of_deviation(1 / x.shape[-1]),
            dtype=self.dtype,
            name="head",
        )
        return layers.at_least_float32(head(x))


airbench94 = functools.partial(Airbench, channels=(64, 256, 256), convolutions=2)
airbench96 = functools.partial(Airbench, channels=(128, 384, 512), convolutions=3)
