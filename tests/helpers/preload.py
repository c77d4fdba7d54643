"""Imports what a run imports on its way, in the server of forks (`runs.context`), so that they need not."""

import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
import sklearn.datasets  # noqa: F401

from cifar_jax import cli  # noqa: F401
from cifar_jax.reporting import tensorboard

tensorboard.import_tensorboardx()
