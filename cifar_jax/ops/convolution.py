"""Convolution with the interface of `lax.conv_general_dilated` that is fast on the CPU too.

On the CPU, our own kernels compute it (`cpu_kernels`). Without them, XLA does, in a form that is fast:
XLA has a fast kernel only for operands in the layout batch, height, width, channel. Inside a loop it does
not convert other layouts, and the gradients that JAX derives have other layouts, which makes a training
step of ResNet-20 more than ten times slower. So this file writes the gradients in that layout, a 1x1
convolution as a matrix product, and a depthwise convolution as a sum of shifted products. On other
platforms it uses the native operation. Results are the same to rounding; without this file, only the
speed would differ.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from cifar_jax.ops import cpu_kernels

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def conv_general_dilated(
    lhs,
    rhs,
    window_strides,
    padding,
    lhs_dilation=None,
    rhs_dilation=None,
    dimension_numbers=None,
    feature_group_count=1,
    precision=None,
):
    """Convolves images [batch, height, width, channel] with a kernel [height, width, in, out].

    Takes the arguments that `flax.linen.Conv` passes to `lax.conv_general_dilated`. Only strides, explicit
    padding and groups are supported: dilation must be 1.
    """
    del dimension_numbers, precision  # Flax always gives NHWC, HWIO.
    if any(d != 1 for d in (*(lhs_dilation or (1,)), *(rhs_dilation or (1,)))):
        raise NotImplementedError("dilated convolution")
    strides = tuple(window_strides)
    padding = tuple(map(tuple, padding))
    dense = feature_group_count == 1
    depthwise = not dense and feature_group_count == lhs.shape[-1] == rhs.shape[-1]
    if not cpu_kernels.on_cpu() or not (dense or depthwise):
        return _native(lhs, rhs, strides, padding, feature_group_count)
    if strides[0] == strides[1] and cpu_kernels.available(lhs, rhs):
        return cpu_kernels.convolve(lhs, rhs, strides[0], padding, depthwise)
    if depthwise:
        return _depthwise(lhs, rhs, strides, padding)
    if rhs.shape[:2] == (1, 1) and padding == ((0, 0), (0, 0)):
        return _pointwise(lhs, rhs, strides)
    return _dense(strides, padding, lhs, rhs)


def _native(images, kernel, strides, padding, groups=1):
    return lax.conv_general_dilated(
        images,
        kernel,
        strides,
        padding,
        dimension_numbers=_DIMENSIONS,
        feature_group_count=groups,
    )


def _pointwise(images, kernel, strides):
    return images[:, :: strides[0], :: strides[1]] @ kernel[0, 0]


def _depthwise(images, kernel, strides, padding):
    images = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    kernel_size = kernel.shape[:2]
    out_size = [
        (size - window) // stride + 1
        for size, window, stride in zip(images.shape[1:3], kernel_size, strides, strict=True)
    ]
    rows, columns = (
        (size - 1) * stride + 1 for size, stride in zip(out_size, strides, strict=True)
    )
    out = 0
    for i in range(kernel_size[0]):
        for j in range(kernel_size[1]):
            window = images[:, i : i + rows : strides[0], j : j + columns : strides[1]]
            out = out + window * kernel[i, j, 0]
    return out


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _dense(strides, padding, images, kernel):
    return _native(images, kernel, strides, padding)


def _dense_forward(strides, padding, images, kernel):
    return _native(images, kernel, strides, padding), (images, kernel)


def _dense_backward(strides, padding, residuals, grad):
    """Both gradients of a convolution, as convolutions in the layout that is fast on the CPU."""
    images, kernel = residuals
    axes = range(2)
    # Rows and columns at the far edge that the forward pass did not reach because of the stride.
    unused = [
        images.shape[1 + a]
        + sum(padding[a])
        - kernel.shape[a]
        - strides[a] * (grad.shape[1 + a] - 1)
        for a in axes
    ]
    grad_images = lax.conv_general_dilated(
        grad,
        jnp.swapaxes(kernel[::-1, ::-1], 2, 3),
        (1, 1),
        [
            (kernel.shape[a] - 1 - padding[a][0], kernel.shape[a] - 1 - padding[a][1] + unused[a])
            for a in axes
        ],
        lhs_dilation=strides,
        dimension_numbers=_DIMENSIONS,
    )
    grad_kernel = lax.conv_general_dilated(
        jnp.transpose(images, (3, 1, 2, 0)),
        jnp.transpose(grad, (1, 2, 0, 3)),
        (1, 1),
        [(padding[a][0], padding[a][1] - unused[a]) for a in axes],
        rhs_dilation=strides,
        dimension_numbers=_DIMENSIONS,
    )
    return grad_images, jnp.transpose(grad_kernel, (1, 2, 0, 3))


_dense.defvjp(_dense_forward, _dense_backward)
