"""The layers that the networks are made of: Flax's where they fit, our own where they do not.

Networks take convolution, pooling, dense layers, batch norm and dropout from here and nowhere
else, so a faster implementation goes in once. Padding, batch norm, dropout and initialisation
equal PyTorch's, in which the published figures were mostly measured; Flax's defaults do not.
"""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cifar_jax.errors import UserError
from cifar_jax.ops import conv_general_dilated, cpu_kernels, normalization


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0). The gradient is made of the result, which the next layer keeps anyway, not of x."""
    return jnp.maximum(x, 0)


def _relu_forward(x):
    y = relu(x)
    return y, y


def _relu_backward(y, grad):
    return (jnp.where(y > 0, grad, 0),)


relu.defvjp(_relu_forward, _relu_backward)

# By name, as the config has them. gelu is the exact one (by erf), PyTorch's default.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": relu,
    "leaky_relu": functools.partial(nn.leaky_relu, negative_slope=0.01),
    "selu": nn.selu,
    "gelu": functools.partial(nn.gelu, approximate=False),
    "silu": nn.silu,
}

# The activations that cut values off, with the bounds that they keep them in.
_CUTS = {None: (-math.inf, math.inf), "relu": (0.0, math.inf), "relu6": (0.0, 6.0)}

Dense = nn.Dense

# Kernels are [height, width, in, out] or [in, out]; biases are zero unless the network says more.
he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
lecun_normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
# U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for kernels (its biases: `uniform_bias`).
torch_uniform = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


def uniform_of_deviation(deviation: float) -> Callable:
    """The initialiser U(-a, a) with this standard deviation, a / sqrt(3)."""
    bound = math.sqrt(3.0) * deviation

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def dirac(key: jax.Array, shape: tuple, dtype=jnp.float32) -> jax.Array:
    """Kernels [height, width, in, out], odd, whose first filters hand on one channel each.

    They are the identity, as many as there are channels in; the others are `torch_uniform`.
    """
    height, width, inputs, outputs = shape
    count = min(inputs, outputs)
    identity = jnp.zeros((height, width, inputs, count), dtype)
    identity = identity.at[height // 2, width // 2, :count].set(jnp.eye(count, dtype=dtype))
    return torch_uniform(key, shape, dtype).at[..., :count].set(identity)


def uniform_bias(fan_in: int) -> Callable:
    """PyTorch's default initialiser of the bias of a layer with `fan_in` inputs to each output."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def torch_dense(features: int, fan_in: int, **kwargs) -> nn.Dense:
    """A dense layer of `fan_in` inputs, kernel and bias drawn as torch.nn.Linear draws them."""
    return Dense(features, kernel_init=torch_uniform, bias_init=uniform_bias(fan_in), **kwargs)


class Conv(nn.Conv):
    """2-D convolution of [batch, height, width, channel], padded as torch.nn.Conv2d pads.

    `padding` is the number of zero pixels on each of the four sides. (Flax's "SAME" pads an even
    side with stride 2 on the right and at the bottom only, which shifts the picture.)
    Raises UserError where the window is larger than the padded image.
    """

    padding: int = 0
    conv_general_dilated: Callable | None = conv_general_dilated

    def __call__(self, x: jax.Array) -> jax.Array:
        _check_window_fits(x, self.kernel_size, self.padding)
        return super().__call__(x)


def max_pool(x: jax.Array, window: int, stride: int, padding: int = 0) -> jax.Array:
    """Maximum over square windows of [batch, height, width, channel], as torch.nn.MaxPool2d.

    Of equal values the first in a window gets the gradient; NaN passes through.
    Raises UserError where the window is larger than the padded image.
    """
    _check_window_fits(x, (window, window), padding)
    sides = ((padding, padding), (padding, padding))

    def native(x):
        return nn.max_pool(x, (window, window), (stride, stride), sides)

    def by_slices(x):
        x = jnp.pad(x, ((0, 0), *sides, (0, 0)), constant_values=-jnp.inf)
        rows, columns = (size - window + 1 for size in x.shape[1:3])
        largest = None
        for i in range(window):
            for j in range(window):
                values = x[:, i : i + rows : stride, j : j + columns : stride]
                if largest is None:
                    largest = values
                else:
                    largest = jnp.where((values > largest) | jnp.isnan(values), values, largest)
        return largest

    def by_kernel(x):
        return cpu_kernels.max_pool(x, window, stride, padding)

    # The gradient of the native operation is 5 to 13 times slower than that of slices on the CPU.
    fast = by_kernel if window < 16 and cpu_kernels.available(x) else by_slices
    return cpu_kernels.platform_dependent(x, cpu=fast, default=native)


class Whitening(nn.Module):
    """A 2x2 convolution that whitens patches: [batch, height, width, c] to [batch, height-1, width-1, 8c].

    Its kernel [2, 2, c, 8c] is computed from the training images (`whitening.kernel`) and never trained;
    until then it hands on the values of a patch and their negatives. It is in `batch_stats`, since it is
    a statistic of the data: what is there is saved, resumed, exported and used in evaluation as running
    statistics are, and no optimizer sees it. (A moving average of it is itself, to rounding.) The bias is
    trained.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _check_window_fits(x, (2, 2), 0)
        count = 4 * x.shape[-1]
        kernel = self.variable("batch_stats", "kernel", _patch_and_negative, x.shape[-1]).value
        bias = self.param("bias", nn.initializers.zeros, (2 * count,))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return conv_general_dilated(x, kernel, (1, 1), ((0, 0), (0, 0))) + bias.astype(self.dtype)


def _patch_and_negative(channels: int) -> jax.Array:
    values = jnp.eye(4 * channels).reshape(2, 2, channels, 4 * channels)
    return jnp.concatenate([values, -values], -1)


def global_average_pool(x: jax.Array) -> jax.Array:
    """[batch, height, width, channel] -> [batch, channel]."""
    return jnp.mean(x, axis=(1, 2))


def remat(block: type[nn.Module]) -> type[nn.Module]:
    """A block, called with (x, train), that keeps only x for its gradient and computes the rest again.

    It saves about half of the memory that a ResNet-18 needs beside its weights, and costs the time
    of most of another forward pass. Parameters and their names are the same, results the same to
    rounding.
    """
    # The third argument, `self` included, is `train`: it decides in Python what is traced.
    return nn.remat(block, static_argnums=(2,))


def at_least_float32(x: jax.Array) -> jax.Array:
    """x in float32, or in its own type where that is wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class BatchNorm(nn.Module):
    """Batch normalisation of [..., channel], equal to PyTorch's (Ioffe and Szegedy, 2015).

    Without `use_scale` there is no parameter `scale`: it is 1.

    Unlike Flax's, the running variance is the unbiased one (n/(n-1) times the variance that the
    batch is normalised with, n values per channel). Parameters `scale` and `bias`, statistics
    `mean` and `var` (collection `batch_stats`), all float32; statistics are computed in float32
    and the result has `dtype`.

    `activation`, None, "relu" or "relu6", is applied to the result, which saves passes over the data;
    its derivative is zero at the very bounds.

    Where the collection `batch_stats` may not change, training normalises with the running
    statistics and keeps them, as evaluation does.

    With `axis_name`, mean, variance and n are those of all devices of that axis, by one
    collective; without, each device has its own.

    One pass over the data gives both sums. They are taken of x - c with c the running mean, so
    that E[(x-c)^2] - E[x-c]^2 loses about 1e-7 * (mean - c)^2 / variance of the variance, relative
    to itself, and not 1e-7 * mean^2 / variance. c starts at 0, so the first few dozen steps have
    no such help: there, inputs whose mean is a thousand deviations away from zero are normalised
    with a variance that is some per cent off. Images that are normalised and kernels with mean
    zero, the only inputs here, are at a few deviations at most.
    """

    momentum: float = 0.9  # share of the old running value that is kept; PyTorch's 0.1
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None
    activation: str | None = None
    use_scale: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels) if self.use_scale else 1.0
        bias = self.param("bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)

        x = at_least_float32(x)
        mean, var = running_mean.value, running_var.value
        moving = train and self.is_mutable_collection("batch_stats")
        # Parameters are made outside of the mapped function, where the axis does not exist.
        if moving and not self.is_initializing():
            mean, var, count = self._batch_statistics(x, shift=running_mean.value)
            unbiased = var * (count / (count - 1))
            running_mean.value = self._move(running_mean.value, mean)
            running_var.value = self._move(running_var.value, unbiased)
        low, high = _CUTS[self.activation]
        scale = lax.rsqrt(var + self.epsilon) * scale
        return normalization.normalize(x, mean, scale, bias, low, high).astype(self.dtype)

    def _batch_statistics(self, x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array, int]:
        """Mean and (biased) variance per channel, and the number of values each was taken of."""
        count = math.prod(x.shape[:-1])
        shift = lax.stop_gradient(shift)
        moments = normalization.moments(x, shift)
        if self.axis_name is not None and lax.axis_size(self.axis_name) > 1:
            moments = lax.pmean(moments, self.axis_name)
            count *= lax.axis_size(self.axis_name)
        if count < 2:
            raise UserError(
                "batch normalisation needs more than one value per channel to train: "
                "use a larger batch_size (for each device, if sync_batch_norm is off)"
            )
        first, second = moments
        return first + shift, jnp.maximum(second - jnp.square(first), 0.0), count

    def _move(self, old: jax.Array, new: jax.Array) -> jax.Array:
        return self.momentum * old + (1.0 - self.momentum) * lax.stop_gradient(new)


class Dropout(nn.Module):
    """Sets values to zero with probability `rate`, divides the others by 1 - rate.

    Which ones depends on the key "dropout" (equal on all devices) and on the example's place in
    the global batch, so any number of devices along `axis_name` draws the same.
    """

    rate: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if not train or self.rate == 0.0 or self.is_initializing():
            return x
        keep = keep_mask(self.make_rng("dropout"), x.shape, self.rate, self.axis_name)
        return jnp.where(keep, x / (1.0 - self.rate), jnp.zeros_like(x))


class AlphaDropout(nn.Module):
    """Dropout that keeps mean 0 and variance 1, for SELU (Klambauer et al., 2017, section 3).

    Values are set to SELU's limit at minus infinity with probability `rate`; then everything is
    scaled and shifted. Equal in formula to torch.nn.AlphaDropout; the mask is as in `Dropout`.
    """

    rate: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if not train or self.rate == 0.0 or self.is_initializing():
            return x
        keep = keep_mask(self.make_rng("dropout"), x.shape, self.rate, self.axis_name)
        limit = -1.6732632423543772 * 1.0507009873554805  # -alpha * lambda of SELU
        scale = ((1.0 - self.rate) * (1.0 + self.rate * limit**2)) ** -0.5
        shift = -scale * self.rate * limit
        return scale * jnp.where(keep, x, jnp.full_like(x, limit)) + shift


def keep_mask(key: jax.Array, shape: tuple, rate: float, axis_name: str | None) -> jax.Array:
    """Boolean [batch, ...], True with probability 1 - rate.

    Each example's part is drawn with the key and its index in the batch of all devices of
    `axis_name`, whose shares of the batch are equal and in order.
    """
    index = jnp.arange(shape[0])
    if axis_name is not None:
        index += lax.axis_index(axis_name) * shape[0]
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)
    return jax.vmap(lambda k: jax.random.bernoulli(k, 1.0 - rate, shape[1:]))(keys)


def _check_window_fits(x: jax.Array, window: tuple[int, int], padding: int) -> None:
    height, width = x.shape[1:3]
    if height + 2 * padding < window[0] or width + 2 * padding < window[1]:
        raise UserError(
            f"the images are too small for this network: a window of {window[0]}x{window[1]} "
            f"does not fit the {height}x{width} that is left of them; use larger images "
            "(dataset.image_size) or another model"
        )
