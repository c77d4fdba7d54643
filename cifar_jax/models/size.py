"""The size of a network: parameters and multiply-adds, computed from shapes alone."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cifar_jax.models import layers


def parameters(model: nn.Module, image_size: int) -> int:
    """The number of trained values, running statistics not included."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(_trace(model, image_size)["params"]))


def multiply_adds(model: nn.Module, image_size: int) -> int:
    """Multiply-adds of convolutions and dense layers in the forward pass of one image.

    A multiplication and its addition count once (some tables call that one FLOP, others two). As is
    customary, padding counts, and biases, normalisation, activations and pooling do not.
    """
    total, counting = 0, False

    def count(call, args, kwargs, context):
        nonlocal total, counting
        module = context.module
        # Our layers call the method of the Flax layer that they extend: count only the outer call.
        if counting or not isinstance(module, nn.Conv | layers.Dense | layers.Whitening):
            return call(*args, **kwargs)
        counting = True
        result = call(*args, **kwargs)
        counting = False
        # Each value of a kernel is used once per output position.
        collection = "batch_stats" if isinstance(module, layers.Whitening) else "params"
        total += math.prod(result.shape[:-1]) * module.variables[collection]["kernel"].size
        return result

    with nn.intercept_methods(count):
        _trace(model, image_size)
    return total


def _trace(model: nn.Module, image_size: int):
    """Shapes of the model's variables. The function is new each time, so that JAX traces it again."""
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    return jax.eval_shape(lambda images: model.init(jax.random.key(0), images), images)
