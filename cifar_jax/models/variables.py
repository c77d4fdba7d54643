"""The initial variables of a network."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from cifar_jax.models import layers


def initial_variables(model: nn.Module, key: jax.Array, image_size: int) -> dict:
    """Fresh variables for images [batch, image_size, image_size, 3].

    Raises:
      UserError: the images are too small for the network.
    """
    if getattr(model, "remat", False):
        # Without it, the initial weights are the same, and no draw is inside a transformation.
        model = model.clone(remat=False)
    init = jax.jit(functools.partial(layers.drawn_together, model.init))
    return init(key, jnp.zeros((1, image_size, image_size, 3)))
