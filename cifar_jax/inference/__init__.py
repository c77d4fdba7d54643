"""Trained networks at work: weights files, evaluation, prediction, and export to other programs.

Take from here: the names below, and the modules `evaluate`, `export`, `init_from` (the weights a run starts
from), `other_libraries` (weights of torchvision and others), `predict`, `prediction_sheet`, `pretrained` (the
bundled networks), `segment` (prediction by a segmentation network) and `weights`.
"""

from cifar_jax.inference.calibration import BINS, Calibration
from cifar_jax.inference.find import find_weights, which_weights
from cifar_jax.inference.make import inference_weights
from cifar_jax.inference.results import Result, SegmentationResult
from cifar_jax.inference.weights import Weights

__all__ = [
    "BINS",
    "Calibration",
    "Result",
    "SegmentationResult",
    "Weights",
    "evaluate",
    "export",
    "find_weights",
    "inference_weights",
    "init_from",
    "other_libraries",
    "predict",
    "prediction_sheet",
    "pretrained",
    "segment",
    "weights",
    "which_weights",
]
