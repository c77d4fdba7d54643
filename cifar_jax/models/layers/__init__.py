"""The layers of the networks: Flax's where they fit, our own where they do not.

Networks take all layers from here, so a faster implementation goes in once. Padding, batch norm, dropout and
initialisation equal PyTorch's, with which most published figures were measured; Flax's defaults differ.
"""

from cifar_jax.models.layers.activations import ACTIVATIONS, relu
from cifar_jax.models.layers.batch_norm import BatchNorm
from cifar_jax.models.layers.convolution import Conv
from cifar_jax.models.layers.dense import Dense, torch_dense
from cifar_jax.models.layers.draws import drawn_together
from cifar_jax.models.layers.dropout import AlphaDropout, Dropout, keep_mask
from cifar_jax.models.layers.fcn import FCNHead, padded, upsample
from cifar_jax.models.layers.initializers import (
    dirac,
    he_normal,
    he_normal_fan_out,
    lecun_normal,
    normal,
    torch_uniform,
    uniform_bias,
    uniform_of_deviation,
)
from cifar_jax.models.layers.pooling import global_average_pool, max_pool
from cifar_jax.models.layers.precision import at_least_float32
from cifar_jax.models.layers.remat import remat
from cifar_jax.models.layers.whitening import Whitening

__all__ = [
    "ACTIVATIONS",
    "AlphaDropout",
    "BatchNorm",
    "Conv",
    "Dense",
    "Dropout",
    "FCNHead",
    "Whitening",
    "at_least_float32",
    "dirac",
    "drawn_together",
    "global_average_pool",
    "he_normal",
    "he_normal_fan_out",
    "keep_mask",
    "lecun_normal",
    "max_pool",
    "normal",
    "padded",
    "relu",
    "remat",
    "torch_dense",
    "torch_uniform",
    "uniform_bias",
    "uniform_of_deviation",
    "upsample",
]
