"""MobileNetV2 (Sandler et al., 2018), with strides for 32x32 images or those of the paper."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cifar_jax.models import layers


class Stage(NamedTuple):
    """A row of table 2 of the paper. `stride` is the stride of the stage's first block."""

    expand_ratio: int
    channels: int
    blocks: int
    stride: int


# As in the paper, except that the stage of 24 channels (and the stem) has stride 1, not 2: for images of
# 32x32, the last feature map is 4x4. The stem "imagenet" has the paper's strides, for 224x224.
STAGES = (
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 1),
    Stage(6, 32, 3, 2),
    Stage(6, 64, 4, 2),
    Stage(6, 96, 3, 1),
    Stage(6, 160, 3, 2),
    Stage(6, 320, 1, 1),
)


def round_channels(channels: float) -> int:
    """The nearest multiple of 8 that is at least 8 and not more than 10 % below `channels`.

    As `_make_divisible` in the reference implementation (slim) and in torchvision.
    """
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise convolution, linear 1x1 projection: figure 4 (d) of the paper.

    The input is added if the stride is 1 and the number of channels stays the same.
    """

    channels: int
    stride: int
    expand_ratio: int
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        inputs = x
        hidden = x.shape[-1] * self.expand_ratio
        if self.expand_ratio != 1:
            x = self.conv(hidden, (1, 1), name="expand_conv")(x)
            x = self.norm(name="expand_bn", activation="relu6")(x, train)
        x = self.conv(
            hidden,
            (3, 3),
            strides=self.stride,
            padding=1,
            feature_group_count=hidden,
            name="depthwise_conv",
        )(x)
        x = self.norm(name="depthwise_bn", activation="relu6")(x, train)
        x = self.conv(self.channels, (1, 1), name="project_conv")(x)
        x = self.norm(name="project_bn")(x, train)
        return inputs + x if self.stride == 1 and inputs.shape == x.shape else x


class MobileNetV2(nn.Module):
    """images [batch, height, width, 3] -> logits float32 [batch, num_classes].

    `stem` is "cifar" (the strides of `STAGES`) or "imagenet" (stride 2 in the stem and in the stage
    of 24 channels, as in the paper); weights of one fit the other. `width` multiplies the channels,
    rounded to multiples of 8 (the last 1x1 convolution has at least 1280). `dropout` is applied before
    the dense layer. `remat` recomputes each block in the backward pass instead of storing it. Initialised
    as in torchvision: convolutions He-normal (fan out) without bias, dense kernel N(0, 0.01^2), bias 0.

    With `fcn_stride`, `layers.FCNHead` takes the place of pooling and dense layer. It gets the last feature
    map of each stride: logits float32 [batch, height, width, num_classes].
    """

    num_classes: int
    stem: str = "cifar"
    width: float = 1.0
    dropout: float = 0.0
    remat: bool = False
    fcn_stride: int | None = None
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

        block = layers.remat(InvertedResidual) if self.remat else InvertedResidual

        extra = 2 if self.stem == "imagenet" else 1
        strides = [stage.stride * (extra if stage.channels == 24 else 1) for stage in STAGES]
        x = layers.padded(images, extra * math.prod(strides)) if self.fcn_stride else images
        x = conv(
            round_channels(32 * self.width), (3, 3), strides=extra, padding=1, name="stem_conv"
        )(x)
        x = norm(name="stem_bn", activation="relu6")(x, train)
        maps, reached = {}, extra
        for number, (stage, stride) in enumerate(zip(STAGES, strides, strict=True), start=1):
            reached *= stride
            for index in range(stage.blocks):
                x = block(
                    channels=round_channels(stage.channels * self.width),
                    stride=stride if index == 0 else 1,
                    expand_ratio=stage.expand_ratio,
                    conv=conv,
                    norm=norm,
                    name=f"stage{number}_block{index + 1}",
                )(x, train)
            maps[reached] = x
        x = conv(round_channels(1280 * max(1.0, self.width)), (1, 1), name="last_conv")(x)
        x = norm(name="last_bn", activation="relu6")(x, train)

        if self.fcn_stride:
            x = layers.Dropout(self.dropout, self.axis_name, name="dropout")(x, train)
            fcn = layers.FCNHead(self.num_classes, self.fcn_stride, self.dtype, name="head")
            return fcn(maps | {reached: x}, images.shape[1:3])
        x = layers.global_average_pool(x)
        x = layers.Dropout(self.dropout, self.axis_name, name="dropout")(x, train)
        head = layers.Dense(
            self.num_classes,
            kernel_init=layers.normal(0.01),
            dtype=self.dtype,
            name="head",
        )
        return layers.at_least_float32(head(x))
