"""The same networks in PyTorch, written from the papers and from torchvision's sources.

Modules have the same names as ours, so `state_dict` can convert our variables by a rule. The result is loaded
strictly: a missing or an extra parameter on either side is an error.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def state_dict(variables) -> dict[str, torch.Tensor]:
    """Our variables under PyTorch's names and in its axis order."""
    names = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    result = {}
    for collection in variables.values():
        for path, leaf in flat(collection).items():
            *modules, last = path
            array = np.asarray(leaf)
            if array.ndim == 4:
                array = array.transpose(3, 2, 0, 1)  # HWIO -> OIHW
            elif array.ndim == 2:
                array = array.T
            name = ".".join([*modules, names.get(last, last)])
            result[name] = torch.from_numpy(array.copy())
    return result


def flat(tree, prefix=()) -> dict[tuple, np.ndarray]:
    result = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            result.update(flat(value, (*prefix, key)))
        else:
            result[(*prefix, key)] = value
    return result


def frozen_kernel(conv):
    conv.weight.requires_grad_(False)
    return conv


class FCN(nn.Module):
    """1x1 scores of maps {stride: [batch, channel, height, width]}, as in Long et al., 2015; see `head`."""

    def __init__(self, classes, stride, widths):
        super().__init__()
        self.strides = sorted((s for s in widths if s >= stride), reverse=True)
        for s in self.strides:
            self.add_module(f"score_{s}", nn.Conv2d(widths[s], classes, 1))

    def forward(self, maps, size):
        scores = None
        for s in self.strides:
            score = self.get_submodule(f"score_{s}")(maps[s])
            if scores is not None:
                larger = F.interpolate(scores, size=score.shape[2:], mode="bilinear")
                score = score + larger
            scores = score
        factor = self.strides[-1]
        if factor > 1:
            scores = F.interpolate(scores, scale_factor=factor, mode="bilinear")
        return scores[:, :, : size[0], : size[1]]


def head(classes, fcn_stride, widths):
    """A dense layer or, with a stride, `FCN`. `widths` maps the strides of the feature maps to channels."""
    if fcn_stride is None:
        return nn.Linear(list(widths.values())[-1], classes)
    return FCN(classes, fcn_stride, widths)


def padded(x, head):
    """Images with zeros at the bottom and right, if the head is one of segmentation."""
    if not isinstance(head, FCN):
        return x
    largest = head.strides[0]
    return F.pad(x, (0, -x.shape[3] % largest, 0, -x.shape[2] % largest))


class Linear(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.head = nn.Linear(inputs, classes)

    def forward(self, x):
        return self.head(channel_last_flat(x))


class MLP(nn.Module):
    def __init__(self, inputs, classes, sizes, activation="relu", batch_norm=False):
        super().__init__()
        self.depth = len(sizes)
        self.activation = ACTIVATIONS[activation]()
        for i, size in enumerate(sizes, 1):
            self.add_module(f"dense{i}", nn.Linear(inputs, size, bias=not batch_norm))
            self.add_module(f"bn{i}", nn.BatchNorm1d(size) if batch_norm else nn.Identity())
            inputs = size
        self.head = nn.Linear(inputs, classes)

    def forward(self, x):
        x = channel_last_flat(x)
        for i in range(1, self.depth + 1):
            x = self.get_submodule(f"bn{i}")(self.get_submodule(f"dense{i}")(x))
            x = self.activation(x)
        return self.head(x)


class LeNet(nn.Module):
    """As printed in PyTorch's tutorial, except that features are flattened in our order."""

    def __init__(self, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.dense1 = nn.Linear(16 * 5 * 5, 120)
        self.dense2 = nn.Linear(120, 84)
        self.head = nn.Linear(84, classes)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = channel_last_flat(x)
        x = F.relu(self.dense1(x))
        x = F.relu(self.dense2(x))
        return self.head(x)


class CNN(nn.Module):
    def __init__(self, classes, features, downsample, activation="relu", batch_norm=False):
        super().__init__()
        stride = {"stride": 2, "max_pool": 1}[downsample]
        self.conv1 = nn.Conv2d(3, 16, 5, stride, bias=not batch_norm)
        self.conv2 = nn.Conv2d(16, 16, 5, stride, bias=not batch_norm)
        self.bn1 = nn.BatchNorm2d(16) if batch_norm else nn.Identity()
        self.bn2 = nn.BatchNorm2d(16) if batch_norm else nn.Identity()
        self.pool = nn.MaxPool2d(2) if downsample == "max_pool" else nn.Identity()
        self.activation = ACTIVATIONS[activation]()
        self.head = nn.Linear(features, classes)

    def forward(self, x):
        x = self.pool(self.activation(self.bn1(self.conv1(x))))
        x = self.pool(self.activation(self.bn2(self.conv2(x))))
        return self.head(channel_last_flat(x))


class BasicBlock(nn.Module):
    """The block of ResNet-18 and ResNet-34, as in torchvision."""

    def __init__(self, inplanes, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.changes_shape = stride != 1 or inplanes != planes
        if self.changes_shape:
            self.shortcut_conv = nn.Conv2d(inplanes, planes, 1, stride, bias=False)
            self.shortcut_bn = nn.BatchNorm2d(planes)

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.changes_shape:
            identity = self.shortcut_bn(self.shortcut_conv(x))
        out += identity
        return self.relu(out)


class ZeroPaddingBlock(BasicBlock):
    """Its shortcut has no parameters: option A of He et al., 2016, as in akamaster/pytorch_resnet_cifar10."""

    def __init__(self, inplanes, planes, stride):
        super().__init__(inplanes, planes, stride)
        if self.changes_shape:
            del self.shortcut_conv, self.shortcut_bn
            self.new = (planes - inplanes) // 2

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.changes_shape:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.new, self.new))
        return F.relu(out + x)


class PreActivationBlock(nn.Module):
    def __init__(self, inplanes, planes, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inplanes)
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.changes_shape = stride != 1 or inplanes != planes
        if self.changes_shape:
            self.shortcut_conv = nn.Conv2d(inplanes, planes, 1, stride, bias=False)

    def forward(self, x):
        out = F.relu(self.bn1(x))
        shortcut = self.shortcut_conv(out) if self.changes_shape else x
        out = self.conv1(out)
        out = self.conv2(F.relu(self.bn2(out)))
        return out + shortcut


class ResNet(nn.Module):
    def __init__(
        self,
        classes,
        blocks,
        planes,
        pre_activation=False,
        imagenet_stem=False,
        whitening=False,
        zero_padding=False,
        fcn_stride=None,
    ):
        super().__init__()
        self.stride = 4 if imagenet_stem else 1
        self.pre_activation = pre_activation
        self.whitens = whitening
        if whitening:
            self.whitening = frozen_kernel(nn.Conv2d(3, 24, 2))
        if imagenet_stem:
            self.stem_conv = nn.Conv2d(3, planes, 7, 2, padding=3, bias=False)
            self.stem_pool = nn.MaxPool2d(3, 2, padding=1)
        else:
            inputs = 24 if whitening else 3
            self.stem_conv = nn.Conv2d(inputs, planes, 3, padding=1, bias=False)
            self.stem_pool = nn.Identity()
        if not pre_activation:
            self.stem_bn = nn.BatchNorm2d(planes)
        block = PreActivationBlock if pre_activation else BasicBlock
        block = ZeroPaddingBlock if zero_padding else block
        self.block_names = []
        inplanes = planes
        for stage, count in enumerate(blocks, 1):
            for i in range(1, count + 1):
                stride = 2 if stage > 1 and i == 1 else 1
                name = f"stage{stage}_block{i}"
                self.add_module(name, block(inplanes, planes, stride))
                self.block_names.append(name)
                inplanes = planes
            planes *= 2
        if pre_activation:
            self.final_bn = nn.BatchNorm2d(inplanes)
        widths = [inplanes >> i for i in reversed(range(len(blocks)))]
        strides = [self.stride << i for i in range(len(blocks))]
        self.head = head(classes, fcn_stride, dict(zip(strides, widths, strict=True)))

    def forward(self, x):
        size, x = x.shape[2:], padded(x, self.head)
        if self.whitens:
            x = F.relu(self.whitening(x))
        x = self.stem_conv(x)
        if not self.pre_activation:
            x = F.relu(self.stem_bn(x))
        x = self.stem_pool(x)
        maps, images_height = {}, self.stride * x.shape[2]
        for name in self.block_names:
            x = self.get_submodule(name)(x)
            maps[images_height // x.shape[2]] = x
        if self.pre_activation:
            x = F.relu(self.final_bn(x))
            maps[images_height // x.shape[2]] = x
        if isinstance(self.head, FCN):
            return self.head(maps, size)
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.head(x)


class Airbench(nn.Module):
    """As in airbench94_muon.py or, with three convolutions, legacy/airbench96.py.

    The scale of the head is in its weights.
    """

    def __init__(self, classes, channels, activation="gelu", convolutions=2):
        super().__init__()
        self.convolutions = convolutions
        self.whitening = frozen_kernel(nn.Conv2d(3, 24, 2))
        self.group_names = []
        inputs = 24
        for group, outputs in enumerate(channels, 1):
            for i in range(1, convolutions + 1):
                conv = nn.Conv2d(inputs, outputs, 3, padding="same", bias=False)
                self.add_module(f"group{group}_conv{i}", conv)
                norm = nn.BatchNorm2d(outputs, eps=1e-12, momentum=0.4)
                del norm.weight
                norm.register_buffer("weight", torch.ones(outputs), persistent=False)
                self.add_module(f"group{group}_bn{i}", norm)
                inputs = outputs
            self.group_names.append(f"group{group}")
        self.activation = ACTIVATIONS[activation]()
        self.head = nn.Linear(inputs, classes, bias=False)

    def forward(self, x):
        x = self.activation(self.whitening(x))
        for name in self.group_names:
            conv1, conv2, bn1, bn2 = (
                self.get_submodule(f"{name}_{layer}") for layer in ("conv1", "conv2", "bn1", "bn2")
            )
            x = self.activation(bn1(F.max_pool2d(conv1(x), 2)))
            before, x = x, self.activation(bn2(conv2(x)))
            if self.convolutions == 3:
                x = self.get_submodule(f"{name}_bn3")(self.get_submodule(f"{name}_conv3")(x))
                x = self.activation(x + before)
        return self.head(F.adaptive_max_pool2d(x, 1).flatten(1))


def make_divisible(value, divisor=8):
    """As `_make_divisible` in torchvision."""
    new_value = max(divisor, int(value + divisor / 2) // divisor * divisor)
    if new_value < 0.9 * value:
        new_value += divisor
    return new_value


class InvertedResidual(nn.Module):
    def __init__(self, inp, oup, stride, expand_ratio):
        super().__init__()
        hidden = inp * expand_ratio
        self.use_shortcut = stride == 1 and inp == oup
        self.expands = expand_ratio != 1
        if self.expands:
            self.expand_conv = nn.Conv2d(inp, hidden, 1, bias=False)
            self.expand_bn = nn.BatchNorm2d(hidden)
        self.depthwise_conv = nn.Conv2d(
            hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False
        )
        self.depthwise_bn = nn.BatchNorm2d(hidden)
        self.project_conv = nn.Conv2d(hidden, oup, 1, bias=False)
        self.project_bn = nn.BatchNorm2d(oup)

    def forward(self, x):
        out = x
        if self.expands:
            out = F.relu6(self.expand_bn(self.expand_conv(out)))
        out = F.relu6(self.depthwise_bn(self.depthwise_conv(out)))
        out = self.project_bn(self.project_conv(out))
        return x + out if self.use_shortcut else out


class MobileNetV2(nn.Module):
    # Expansion, channels, blocks, stride, as in table 2 of the paper.
    SETTING = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self, classes, width, fcn_stride=None):
        super().__init__()
        channels = make_divisible(32 * width)
        last = make_divisible(1280 * max(1.0, width))
        self.stem_conv = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(channels)
        self.block_names = []
        reached, widths = 1, {}  # of the last map of each stride
        for stage, (t, c, n, s) in enumerate(self.SETTING, 1):
            reached *= s if c != 24 else 1
            for i in range(n):
                stride = s if i == 0 and c != 24 else 1
                name = f"stage{stage}_block{i + 1}"
                out = make_divisible(c * width)
                self.add_module(name, InvertedResidual(channels, out, stride, t))
                self.block_names.append(name)
                channels = widths[reached] = out
        self.last_conv = nn.Conv2d(channels, last, 1, bias=False)
        self.last_bn = nn.BatchNorm2d(last)
        self.head = head(classes, fcn_stride, widths | {reached: last})

    def forward(self, x):
        size, x = x.shape[2:], padded(x, self.head)
        maps, images_height = {}, x.shape[2]
        x = F.relu6(self.stem_bn(self.stem_conv(x)))
        for name in self.block_names:
            x = self.get_submodule(name)(x)
            maps[images_height // x.shape[2]] = x
        x = F.relu6(self.last_bn(self.last_conv(x)))
        if isinstance(self.head, FCN):
            return self.head(maps | {images_height // x.shape[2]: x}, size)
        return self.head(x.mean((2, 3)))


def channel_last_flat(x):
    """[batch, channel, height, width] -> [batch, height * width * channel], in our order."""
    return x.permute(0, 2, 3, 1).flatten(1)
