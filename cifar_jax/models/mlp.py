"""The multilayer perceptron: dense layers on the pixels."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cifar_jax.models import layers


class MLP(nn.Module):
    """images [batch, height, width, 3] -> logits float32 [batch, num_classes].

    Each hidden layer is a dense layer, batch norm (if on, it replaces the bias), activation and dropout.
    Pixels are flattened with the channel last. Kernels are He-normal (fan in), the head's LeCun-normal,
    because no activation follows it; biases are zero. With selu, all kernels are LeCun-normal and dropout
    is alpha dropout, as self-normalising networks need (Klambauer et al., 2017).
    """

    num_classes: int
    hidden_sizes: tuple[int, ...] = (1024,)
    activation: str = "relu"
    batch_norm: bool = False
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None
    sync_batch_norm: bool = True

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        activation = layers.ACTIVATIONS[self.activation]
        self_normalising = self.activation == "selu"
        kernel_init = layers.lecun_normal if self_normalising else layers.he_normal
        dropout = layers.AlphaDropout if self_normalising else layers.Dropout
        norm_axis = self.axis_name if self.sync_batch_norm else None

        x = images.reshape(images.shape[0], -1)
        for i, size in enumerate(self.hidden_sizes, start=1):
            x = layers.Dense(
                size,
                use_bias=not self.batch_norm,
                kernel_init=kernel_init,
                dtype=self.dtype,
                name=f"dense{i}",
            )(x)
            if self.batch_norm:
                x = layers.BatchNorm(dtype=self.dtype, axis_name=norm_axis, name=f"bn{i}")(x, train)
            x = activation(x)
            x = dropout(self.dropout, self.axis_name, name=f"dropout{i}")(x, train)
        head = layers.Dense(
            self.num_classes, kernel_init=layers.lecun_normal, dtype=self.dtype, name="head"
        )
        return layers.at_least_float32(head(x))
