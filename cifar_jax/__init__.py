"""A pure-functional JAX/Flax trainer for CIFAR-10/100: small, exact and fast."""

__version__ = "0.1.0"
