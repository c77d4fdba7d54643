"""How large a network is, without training it or drawing a weight: parameters and multiply-adds."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cifar_jax.models import layers


def parameters(model: nn.Module, image_size: int) -> int:
    """Trained numbers; running statistics are none."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(_trace(model, image_size)["params"]))


def multiply_adds(model: nn.Module, image_size: int) -> int:
    """Multiplications of the forward pass of one image, in convolutions and dense layers.

    Each counts once with its addition (half of the "FLOPs" of some tables, all of those of others).
    As is customary, what is added to zeros at a picture's edge counts, and biases, normalisation,
    activations and pooling do not.
    """
    total, counting = 0, False

    def count(call, args, kwargs, context):
        nonlocal total, counting
        module = context.module
        # A layer of ours calls the method of Flax's that it extends, which would count again.
        if counting or not isinstance(module, nn.Conv | layers.Dense | layers.Whitening):
            return call(*args, **kwargs)
        counting = True
        result = call(*args, **kwargs)
        counting = False
        # Every number of a kernel is used once at each place of the result.
        collection = "batch_stats" if isinstance(module, layers.Whitening) else "params"
        total += math.prod(result.shape[:-1]) * module.variables[collection]["kernel"].size
        return result

    with nn.intercept_methods(count):
        _trace(model, image_size)
    return total


def _trace(model: nn.Module, image_size: int):
    """Shapes of the model's variables; a new function each time, which JAX has no trace of."""
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    return jax.eval_shape(lambda images: model.init(jax.random.key(0), images), images)
