"""Convolution, pooling and normalisation: the results of JAX's own operations, faster on a CPU.

Take from here: `conv_general_dilated`, and the modules `pooling`, `normalization` and `cpu_kernels` (the C++
kernels behind them).
"""

from cifar_jax.ops.convolution import conv_general_dilated

__all__ = ["conv_general_dilated", "cpu_kernels", "normalization", "pooling"]
