"""Networks with the layer names of four repositories that people take CIFAR weights from.

They are written layer by layer with the names and shapes of those repositories, and take nothing from the
project. `width` divides the channels, which makes a test faster and changes no name.
"""

import torch.nn.functional as F
from torch import nn

from tests.helpers.torchvision_names import BasicBlock


def conv(inputs, outputs, window=3, stride=1):
    return nn.Conv2d(inputs, outputs, window, stride, window // 2, bias=False)


def chain(block, inputs, outputs, count, stride):
    first = block(inputs, outputs, stride)
    return nn.Sequential(first, *(block(outputs, outputs, 1) for _ in range(count - 1)))


class ProjectionBlock(nn.Module):
    """Of kuangliu/pytorch-cifar: models/resnet.py."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ZeroPadding(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, x):
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.channels, self.channels))


class PaddedBlock(ProjectionBlock):
    """Of akamaster/pytorch_resnet_cifar10: resnet.py, with option A."""

    def __init__(self, inputs, outputs, stride):
        super().__init__(inputs, outputs, stride)
        if stride != 1:
            self.shortcut = ZeroPadding(outputs // 4)


class ThreeOrFourStages(nn.Module):
    """The networks of kuangliu (four stages), akamaster and chenyaofo (three)."""

    def __init__(self, block, blocks, channels, classes, head):
        super().__init__()
        self.conv1, self.bn1 = conv(3, channels), nn.BatchNorm2d(channels)
        inputs = channels
        for stage, count in enumerate(blocks, 1):
            outputs = channels * 2 ** (stage - 1)
            layer = chain(block, inputs, outputs, count, 1 if stage == 1 else 2)
            self.add_module(f"layer{stage}", layer)
            inputs = outputs
        self.stages = [f"layer{stage}" for stage in range(1, len(blocks) + 1)]
        self.head = head
        self.add_module(head, nn.Linear(inputs, classes))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.get_submodule(self.head)(x.mean((2, 3)))


class ResidualFunctionBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.residual_function = nn.Sequential(
            conv(inputs, outputs, 3, stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            conv(outputs, outputs),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        return F.relu(self.residual_function(x) + self.shortcut(x))


class Weiaicunzai(nn.Module):
    """Of weiaicunzai/pytorch-cifar100: models/resnet.py."""

    def __init__(self, blocks, channels, classes):
        super().__init__()
        self.conv1 = nn.Sequential(conv(3, channels), nn.BatchNorm2d(channels), nn.ReLU())
        block, c = ResidualFunctionBlock, channels
        self.conv2_x = chain(block, c, c, blocks[0], 1)
        self.conv3_x = chain(block, c, 2 * c, blocks[1], 2)
        self.conv4_x = chain(block, 2 * c, 4 * c, blocks[2], 2)
        self.conv5_x = chain(block, 4 * c, 8 * c, blocks[3], 2)
        self.fc = nn.Linear(8 * c, classes)

    def forward(self, x):
        x = self.conv5_x(self.conv4_x(self.conv3_x(self.conv2_x(self.conv1(x)))))
        return self.fc(x.mean((2, 3)))


def kuangliu(blocks, classes, width=1):
    return ThreeOrFourStages(ProjectionBlock, blocks, 64 // width, classes, "linear")


def akamaster(blocks, classes, width=1):
    return ThreeOrFourStages(PaddedBlock, blocks, 16 // width, classes, "linear")


def chenyaofo(blocks, classes, width=1):
    return ThreeOrFourStages(BasicBlock, blocks, 16 // width, classes, "fc")


def weiaicunzai(blocks, classes, width=1):
    return Weiaicunzai(blocks, 64 // width, classes)


class ProjectedInvertedResidual(nn.Module):
    """Of kuangliu/pytorch-cifar: models/mobilenetv2.py. For its names only."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, inputs, 1), nn.BatchNorm2d(inputs)
        self.conv2 = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        self.bn2 = nn.BatchNorm2d(inputs)
        self.conv3, self.bn3 = conv(inputs, outputs, 1), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential(conv(inputs, outputs, 1), nn.BatchNorm2d(outputs))


def kuangliu_mobilenet():
    """The start of the network: enough to tell it by."""
    network = nn.Module()
    network.conv1, network.bn1 = conv(3, 32), nn.BatchNorm2d(32)
    network.layers = nn.Sequential(ProjectedInvertedResidual(32, 16, 1))
    network.linear = nn.Linear(1280, 10)
    return network
