"""Residual networks with two 3x3 convolutions per block: the CIFAR ResNets and ResNet-18/34.

Padding, strides and initialisation are those of torchvision. Version 1 is He et al., 2016a (a block ends with
addition and ReLU). Version 2 is He et al., 2016b (a block begins with batch norm and ReLU and ends with the
addition).
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from cifar_jax.errors import UserError
from cifar_jax.models import layers


class BlockV1(nn.Module):
    """relu(shortcut(x) + bn(conv(relu(bn(conv(x)))))).

    The shortcut is the identity or, if the shape changes, "projection": a 1x1 convolution with batch
    norm, or "zero_padding": every stride-th pixel, and zeros for the new channels.
    """

    channels: int
    stride: int
    conv: Callable
    norm: Callable
    shortcut: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shortcut = x
        if self.stride != 1 or x.shape[-1] != self.channels:
            if self.shortcut == "zero_padding":
                shortcut = _zero_padded(x, self.channels, self.stride)
            else:
                projection = self.conv(
                    self.channels, (1, 1), strides=self.stride, name="shortcut_conv"
                )
                shortcut = self.norm(name="shortcut_bn")(projection(x), train)
        x = self.conv(self.channels, (3, 3), strides=self.stride, padding=1, name="conv1")(x)
        x = self.norm(name="bn1", activation="relu")(x, train)
        x = self.conv(self.channels, (3, 3), padding=1, name="conv2")(x)
        return layers.relu(shortcut + self.norm(name="bn2")(x, train))


def _zero_padded(x: jax.Array, channels: int, stride: int) -> jax.Array:
    """Every stride-th pixel of [batch, height, width, channel], with zeros for the new channels.

    Half of these come before the others, half after; if they are odd, one more after.
    """
    x = jax.lax.slice(x, (0,) * 4, x.shape, (1, stride, stride, 1))
    before, odd = divmod(channels - x.shape[-1], 2)
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (before, before + odd)))


class BlockV2(nn.Module):
    """shortcut + conv(relu(bn(conv(a)))) with a = relu(bn(x)).

    The shortcut is x or, if the shape changes, a 1x1 convolution of a.
    """

    channels: int
    stride: int
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shortcut = x
        x = self.norm(name="bn1", activation="relu")(x, train)
        if self.stride != 1 or x.shape[-1] != self.channels:
            shortcut = self.conv(self.channels, (1, 1), strides=self.stride, name="shortcut_conv")(
                x
            )
        x = self.conv(self.channels, (3, 3), strides=self.stride, padding=1, name="conv1")(x)
        x = self.norm(name="bn2", activation="relu")(x, train)
        x = self.conv(self.channels, (3, 3), padding=1, name="conv2")(x)
        return shortcut + x


class ResNet(nn.Module):
    """images [batch, height, width, 3] -> logits float32 [batch, num_classes].

    A stem, stages of blocks (each stage after the first doubles the channels and starts with stride 2),
    global average pooling and a dense layer. `stem` is "cifar" (3x3, stride 1) or "imagenet" (7x7,
    stride 2, then 3x3 max pooling with stride 2). `width` multiplies `channels`, the number of channels
    of the first stage. `whitening` puts a frozen 2x2 convolution with ReLU before the stem
    (`layers.Whitening`). `shortcut` is that of version 1 where a block changes the shape: "projection" or
    "zero_padding", options B and A of He et al., 2016a, section 4.1. `remat` recomputes each block in the
    backward pass instead of storing it. Convolutions have no bias and are He-normal (fan out). The dense
    layer is U(-1/sqrt(fan_in), 1/sqrt(fan_in)). Batch norms start with scale 1 and bias 0.

    With `fcn_stride`, `layers.FCNHead` takes the place of pooling and dense layer. It gets the outputs of the
    stages: logits float32 [batch, height, width, num_classes].
    """

    num_classes: int
    stage_sizes: tuple[int, ...]
    channels: int
    version: int = 1
    stem: str = "cifar"
    width: float = 1.0
    remat: bool = False
    whitening: bool = False
    fcn_stride: int | None = None
    shortcut: str = "projection"
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None
    sync_batch_norm: bool = True

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        conv = functools.partial(
            layers.Conv, use_bias=False, kernel_init=layers.he_normal_fan_out, dtype=self.dtype
        )
        norm = functools.partial(
            layers.BatchNorm,
            dtype=self.dtype,
            axis_name=self.axis_name if self.sync_batch_norm else None,
        )
        block = BlockV1 if self.version == 1 else BlockV2
        block = layers.remat(block) if self.remat else block
        if self.version == 1:
            block = functools.partial(block, shortcut=self.shortcut)
        channels = max(1, round(self.channels * self.width))

        first = 4 if self.stem == "imagenet" else 1
        strides = [first * 2**stage for stage in range(len(self.stage_sizes))]
        x = layers.padded(images, strides[-1]) if self.fcn_stride else images
        if self.whitening and self.fcn_stride:
            raise UserError("whitening shrinks the image by a pixel: do not set fcn_stride too")
        if self.whitening:
            x = layers.relu(layers.Whitening(dtype=self.dtype, name="whitening")(x))
        if self.stem == "imagenet":
            x = conv(channels, (7, 7), strides=2, padding=3, name="stem_conv")(x)
        else:
            x = conv(channels, (3, 3), padding=1, name="stem_conv")(x)
        # Blocks of version 2 begin with batch norm and ReLU.
        if self.version == 1:
            x = norm(name="stem_bn", activation="relu")(x, train)
        if self.stem == "imagenet":
            x = layers.max_pool(x, window=3, stride=2, padding=1)

        maps = []
        for stage, size in enumerate(self.stage_sizes):
            for index in range(size):
                x = block(
                    channels=channels * 2**stage,
                    stride=2 if stage > 0 and index == 0 else 1,
                    conv=conv,
                    norm=norm,
                    name=f"stage{stage + 1}_block{index + 1}",
                )(x, train)
            maps.append(x)

        if self.version == 2:
            x = norm(name="final_bn", activation="relu")(x, train)
        if self.fcn_stride:
            fcn = layers.FCNHead(self.num_classes, self.fcn_stride, self.dtype, name="head")
            return fcn(dict(zip(strides, [*maps[:-1], x], strict=True)), images.shape[1:3])
        x = layers.global_average_pool(x)
        head = layers.torch_dense(self.num_classes, x.shape[-1], dtype=self.dtype, name="head")
        return layers.at_least_float32(head(x))


def cifar_resnet(depth: int, version: int) -> functools.partial:
    """The ResNet for 32x32 images of He et al., 2016a, section 4.2. Its depth must be 6n + 2."""
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise ValueError(f"depth {depth} is not 6n + 2")
    fixed = {"stem": "cifar"} if version == 1 else {"stem": "cifar", "shortcut": "projection"}
    return functools.partial(
        ResNet, stage_sizes=(blocks,) * 3, channels=16, version=version, **fixed
    )


resnet18 = functools.partial(ResNet, stage_sizes=(2, 2, 2, 2), channels=64, version=1)
resnet34 = functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), channels=64, version=1)
