"""Batch normalisation, equal to PyTorch's."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cifar_jax.errors import UserError
from cifar_jax.models.layers.precision import at_least_float32
from cifar_jax.ops import normalization

# Activations that clip values -> their bounds.
_BOUNDS = {None: (-math.inf, math.inf), "relu": (0.0, math.inf), "relu6": (0.0, 6.0)}


class BatchNorm(nn.Module):
    """Batch normalisation of [..., channel], equal to PyTorch's (Ioffe and Szegedy, 2015).

    Parameters are `scale` and `bias`, statistics (in the collection `batch_stats`) `mean` and `var`, all
    float32. The statistics are computed in float32; the result has `dtype`. Unlike in Flax, the running
    variance is unbiased: n/(n-1) times the variance that normalises the batch, with n values per channel.
    If `batch_stats` is not mutable, training normalises with the running statistics, as evaluation does.

    One pass over the data computes both sums, of x - c and its square, where c is the running mean. So
    the variance E[(x-c)^2] - E[x-c]^2 has a relative error of about 1e-7 * (mean - c)^2 / variance, not
    1e-7 * mean^2 / variance. In the first few dozen steps c is still near 0: the variance of inputs whose
    mean is a thousand standard deviations from zero is then off by some per cent. The inputs here are a
    few deviations from zero at most.

    Attributes:
      momentum: share of the old running value that is kept (0.9 is PyTorch's 0.1).
      axis_name: the axis of devices over which mean, variance and n are computed, with one collective;
        None: each device has its own.
      activation: None, "relu" or "relu6", applied to the result, which saves passes over the data. Its
        derivative at the bounds is zero.
      use_scale: whether there is a parameter `scale`; without it, the scale is 1.
    """

    momentum: float = 0.9
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
        # Parameters are initialised outside the mapped function, where the axis does not exist.
        if moving and not self.is_initializing():
            mean, var, count = self._batch_statistics(x, shift=running_mean.value)
            unbiased = var * (count / (count - 1))
            running_mean.value = self._move(running_mean.value, mean)
            running_var.value = self._move(running_var.value, unbiased)
        low, high = _BOUNDS[self.activation]
        scale = lax.rsqrt(var + self.epsilon) * scale
        return normalization.normalize(x, mean, scale, bias, low, high).astype(self.dtype)

    def _batch_statistics(self, x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array, int]:
        """(mean, biased variance, number of values) per channel."""
        count = math.prod(x.shape[:-1])
        shift = lax.stop_gradient(shift)
        moments = normalization.moments(x, shift)
        if self.axis_name is not None and lax.axis_size(self.axis_name) > 1:
            moments = lax.pmean(jnp.stack(moments), self.axis_name)
            count *= lax.axis_size(self.axis_name)
        if count < 2:
            raise UserError(
                "batch normalisation needs more than one value per channel to train: "
                "use a larger batch_size (per device, if sync_batch_norm is off)"
            )
        first, second = moments
        return first + shift, jnp.maximum(second - jnp.square(first), 0.0), count

    def _move(self, old: jax.Array, new: jax.Array) -> jax.Array:
        return self.momentum * old + (1.0 - self.momentum) * lax.stop_gradient(new)
