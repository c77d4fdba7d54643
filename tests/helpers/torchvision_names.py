"""Networks in PyTorch whose parameters have the names that torchvision and timm use.

They are written layer by layer from the papers and take nothing from the project, so they check its names
and shapes independently. `imagenet=False` gives the strides (and the first window) for 32x32 images.
"""

import torch
import torch.nn.functional as F
from torch import nn


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet(nn.Module):
    """ResNet-18 and ResNet-34. Both libraries use the same names for their layers."""

    def __init__(self, blocks, classes, imagenet):
        super().__init__()
        window, stride, padding = (7, 2, 3) if imagenet else (3, 1, 1)
        self.conv1 = nn.Conv2d(3, 64, window, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if imagenet else nn.Identity()
        self.layer1 = self.layer(blocks[0], 64, 64, 1)
        self.layer2 = self.layer(blocks[1], 64, 128, 2)
        self.layer3 = self.layer(blocks[2], 128, 256, 2)
        self.layer4 = self.layer(blocks[3], 256, 512, 2)
        self.fc = nn.Linear(512, classes)

    @staticmethod
    def layer(count, inputs, outputs, stride):
        first = BasicBlock(inputs, outputs, stride)
        return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(count - 1)))

    def forward(self, x):
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


# Inputs, outputs, expansion and stride of each block: table 2 of the paper, for 224x224 images.
MOBILENET_BLOCKS = [
    [(32, 16, 1, 1)],
    [(16, 24, 6, 2), (24, 24, 6, 1)],
    [(24, 32, 6, 2), (32, 32, 6, 1), (32, 32, 6, 1)],
    [(32, 64, 6, 2), (64, 64, 6, 1), (64, 64, 6, 1), (64, 64, 6, 1)],
    [(64, 96, 6, 1), (96, 96, 6, 1), (96, 96, 6, 1)],
    [(96, 160, 6, 2), (160, 160, 6, 1), (160, 160, 6, 1)],
    [(160, 320, 6, 1)],
]


def mobilenet_blocks(imagenet):
    small = {(16, 24, 6, 2): (16, 24, 6, 1)}
    return [
        [block if imagenet else small.get(block, block) for block in blocks]
        for blocks in MOBILENET_BLOCKS
    ]


def convolution(inputs, outputs, window=1, stride=1, groups=1):
    return nn.Conv2d(inputs, outputs, window, stride, window // 2, groups=groups, bias=False)


def normalised(inputs, outputs, window=1, stride=1, groups=1):
    return nn.Sequential(
        convolution(inputs, outputs, window, stride, groups), nn.BatchNorm2d(outputs), nn.ReLU6()
    )


class TorchvisionBlock(nn.Module):
    def __init__(self, inputs, outputs, expansion, stride):
        super().__init__()
        hidden = inputs * expansion
        layers = [normalised(inputs, hidden)] if expansion != 1 else []
        layers += [normalised(hidden, hidden, 3, stride, hidden)]
        layers += [convolution(hidden, outputs), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.conv(x) if self.adds else self.conv(x)


class TorchvisionMobileNetV2(nn.Module):
    def __init__(self, classes, imagenet):
        super().__init__()
        blocks = [TorchvisionBlock(*b) for stage in mobilenet_blocks(imagenet) for b in stage]
        stem = normalised(3, 32, 3, 2 if imagenet else 1)
        self.features = nn.Sequential(stem, *blocks, normalised(320, 1280))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class TimmBlock(nn.Module):
    def __init__(self, inputs, outputs, expansion, stride):
        super().__init__()
        hidden = inputs * expansion
        self.conv_pw = convolution(inputs, hidden)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv_dw = convolution(hidden, hidden, 3, stride, hidden)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv_pwl = convolution(hidden, outputs)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x):
        y = F.relu6(self.bn1(self.conv_pw(x)))
        y = F.relu6(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        return x + y if self.adds else y


class TimmFirstBlock(nn.Module):
    """Has no expansion. `conv_pw` is its projection; in the other blocks, that is the expansion."""

    def __init__(self, inputs, outputs, expansion, stride):
        super().__init__()
        assert expansion == 1
        self.conv_dw = convolution(inputs, inputs, 3, stride, inputs)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv_pw = convolution(inputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return self.bn2(self.conv_pw(F.relu6(self.bn1(self.conv_dw(x)))))


class TimmMobileNetV2(nn.Module):
    def __init__(self, classes, imagenet):
        super().__init__()
        first, *others = mobilenet_blocks(imagenet)
        self.conv_stem = convolution(3, 32, 3, 2 if imagenet else 1)
        self.bn1 = nn.BatchNorm2d(32)
        stages = [nn.Sequential(*(TimmFirstBlock(*b) for b in first))]
        stages += [nn.Sequential(*(TimmBlock(*b) for b in stage)) for stage in others]
        self.blocks = nn.Sequential(*stages)
        self.conv_head = convolution(320, 1280)
        self.bn2 = nn.BatchNorm2d(1280)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x):
        x = self.blocks(F.relu6(self.bn1(self.conv_stem(x))))
        return self.classifier(F.relu6(self.bn2(self.conv_head(x))).mean((2, 3)))


def resnet18(classes, imagenet):
    return ResNet((2, 2, 2, 2), classes, imagenet)


def resnet34(classes, imagenet):
    return ResNet((3, 4, 6, 3), classes, imagenet)


def randomise(network):
    """Gives all weights and running statistics random values and returns the network in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.3, generator=generator)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            module.weight.data.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            if module.bias is not None:
                module.bias.data.normal_(generator=generator)
    return network.eval()
