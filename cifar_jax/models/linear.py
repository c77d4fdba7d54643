"""Softmax regression: one dense layer on the pixels."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cifar_jax.models import layers


class Linear(nn.Module):
    """images [batch, height, width, 3] -> logits float32 [batch, num_classes].

    Pixels are flattened with the channel last. Kernel and bias are initialised as in torch.nn.Linear:
    U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
    """

    num_classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        del train
        x = images.reshape(images.shape[0], -1)
        head = layers.torch_dense(self.num_classes, x.shape[-1], dtype=self.dtype, name="head")
        return layers.at_least_float32(head(x))
