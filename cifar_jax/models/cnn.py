"""Two small networks with two 5x5 convolutions: LeNet, and a CNN with options."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from cifar_jax.models import layers


class LeNet(nn.Module):
    """images [batch, height, width, 3] -> logits float32 [batch, num_classes].

    The network of PyTorch's tutorial "Training a Classifier": 5x5 convolutions of 6 and 16
    filters, each with ReLU and 2x2 max pooling, then dense layers of 120, 84 and num_classes.
    Kernels and biases are initialised as in PyTorch: U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
    Features are flattened with the channel last (in PyTorch it comes first).
    """

    num_classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        del train
        x = images
        for i, filters in enumerate((6, 16), start=1):
            x = layers.Conv(
                filters,
                (5, 5),
                kernel_init=layers.torch_uniform,
                bias_init=layers.uniform_bias(5 * 5 * x.shape[-1]),
                dtype=self.dtype,
                name=f"conv{i}",
            )(x)
            x = layers.max_pool(layers.relu(x), window=2, stride=2)
        x = x.reshape(x.shape[0], -1)
        dense = functools.partial(layers.torch_dense, dtype=self.dtype)
        x = layers.relu(dense(120, x.shape[-1], name="dense1")(x))
        x = layers.relu(dense(84, x.shape[-1], name="dense2")(x))
        return layers.at_least_float32(dense(self.num_classes, x.shape[-1], name="head")(x))


class CNN(nn.Module):
    """images [batch, height, width, 3] -> logits float32 [batch, num_classes].

    Two 5x5 convolutions of 16 filters (times `width`) without padding, then one dense layer.
    `downsample` is "stride" (both convolutions have stride 2) or "max_pool" (stride 1, with 2x2 max
    pooling after the activation). After each convolution come batch norm (if on, it replaces the bias),
    activation, pooling and dropout. Features are flattened with the channel last. Kernels are He-normal
    (fan in), the head's LeCun-normal, biases zero. With selu, all kernels are LeCun-normal and dropout
    is alpha dropout, as in the MLP.
    """

    num_classes: int
    width: float = 1.0
    activation: str = "relu"
    downsample: str = "stride"
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
        pooled = self.downsample == "max_pool"

        x = images
        for i in (1, 2):
            x = layers.Conv(
                max(1, round(16 * self.width)),
                (5, 5),
                strides=1 if pooled else 2,
                use_bias=not self.batch_norm,
                kernel_init=kernel_init,
                dtype=self.dtype,
                name=f"conv{i}",
            )(x)
            if self.batch_norm:
                x = layers.BatchNorm(dtype=self.dtype, axis_name=norm_axis, name=f"bn{i}")(x, train)
            x = activation(x)
            if pooled:
                x = layers.max_pool(x, window=2, stride=2)
            x = dropout(self.dropout, self.axis_name, name=f"dropout{i}")(x, train)
        x = x.reshape(x.shape[0], -1)
        head = layers.Dense(
            self.num_classes, kernel_init=layers.lecun_normal, dtype=self.dtype, name="head"
        )
        return layers.at_least_float32(head(x))
