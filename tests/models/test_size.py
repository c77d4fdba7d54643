"""Parameters and multiply-adds, checked against sums by hand and published numbers."""

import flax.linen as nn
import jax
import pytest

from cifar_jax import models
from cifar_jax.models import layers, size


def test_lenet_by_hand():
    model = models.create_model("lenet", 10)
    # Convolution: output pixels times the 5x5 window times channels in and out. Dense: inputs times outputs.
    convolutions = 28 * 28 * (5 * 5 * 3 * 6) + 10 * 10 * (5 * 5 * 6 * 16)
    dense = 400 * 120 + 120 * 84 + 84 * 10
    assert convolutions + dense == 651_720
    assert size.multiply_adds(model, 32) == 651_720
    weights = 5 * 5 * 3 * 6 + 5 * 5 * 6 * 16 + dense
    assert size.parameters(model, 32) == weights + (6 + 16 + 120 + 84 + 10) == 62_006


def test_softmax_regression_on_small_images():
    model = models.create_model("linear", 100)
    assert size.multiply_adds(model, 8) == 8 * 8 * 3 * 100
    assert size.parameters(model, 8) == 8 * 8 * 3 * 100 + 100


def test_resnet18_as_published():
    # He et al. (2016), table 1: 1.8 billion for 224x224 images. The parameters are torchvision's.
    model = models.create_model("resnet18", 1000, stem="imagenet")
    assert size.multiply_adds(model, 224) == pytest.approx(1.8e9, rel=0.01)
    assert size.parameters(model, 224) == 11_689_512


def test_airbench94_by_hand():
    # Output pixels, window, channels in and out. Each group pools before its second convolution.
    whitening = 31 * 31 * (2 * 2 * 3 * 24)
    first = 31 * 31 * (9 * 24 * 64) + 15 * 15 * (9 * 64 * 64)
    second = 15 * 15 * (9 * 64 * 256) + 7 * 7 * (9 * 256 * 256)
    third = 7 * 7 * (9 * 256 * 256) + 3 * 3 * (9 * 256 * 256)
    found = size.multiply_adds(models.create_model("airbench94", 10), 32)
    assert found == whitening + first + second + third + 256 * 10


class Depthwise(nn.Module):
    @nn.compact
    def __call__(self, images):
        x = layers.Conv(4, (1, 1), strides=(2, 2))(images)
        return layers.Conv(4, (3, 3), padding=1, feature_group_count=4)(x)


def test_a_depthwise_convolution_has_one_channel_in():
    assert size.multiply_adds(Depthwise(), 8) == 4 * 4 * (3 * 4) + 4 * 4 * (3 * 3 * 4)


def test_a_block_that_is_computed_again_counts_once():
    plain, again = (models.create_model("resnet8_v2", 10, remat=remat) for remat in (False, True))
    assert size.multiply_adds(again, 32) == size.multiply_adds(plain, 32)


def test_nothing_is_computed():
    before = len(jax.live_arrays())
    size.multiply_adds(models.create_model("resnet18", 10), 32)
    assert len(jax.live_arrays()) == before
