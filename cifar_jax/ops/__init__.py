"""Convolution, pooling and normalisation: the results of JAX's own operations, faster on a CPU.

Take from here: `cpu_kernels` (the C++ kernels behind them), `normalization` and `conv_general_dilated`.
"""

from cifar_jax.ops.convolution import conv_general_dilated

__all__ = ["conv_general_dilated", "cpu_kernels", "normalization"]
