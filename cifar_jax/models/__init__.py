"""The networks, the layers they are made of, and the registry that finds a network by its name.

Take from here: `create_model` and the names below, and the module `size` (multiply-adds and parameters).
"""

from cifar_jax.models.mobilenet_v2 import STAGES
from cifar_jax.models.options import OPTIONS, segments
from cifar_jax.models.registry import (
    HEAD,
    MODELS,
    WHITENING,
    count_parameters,
    create_model,
    mistakes,
    model_options,
)
from cifar_jax.models.variables import initial_variables

__all__ = [
    "HEAD",
    "MODELS",
    "OPTIONS",
    "STAGES",
    "WHITENING",
    "count_parameters",
    "create_model",
    "initial_variables",
    "mistakes",
    "model_options",
    "segments",
    "size",
]
