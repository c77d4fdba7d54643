"""The one place that knows how many devices and processes there are, and where `jax.pmap` lives.

The state is replicated: every leaf has a leading axis of this process's devices. Data is placed once,
whole, on every device. Mapped functions see one device and the axis name `AXIS`.
"""

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cifar_jax.errors import UserError

AXIS = "batch"


def initialize(coordinator_address, num_processes, process_id) -> None:
    """Joins the other processes of this run; what is None is taken from the cluster (as under Slurm)."""
    try:
        jax.distributed.initialize(coordinator_address, num_processes, process_id)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            "could not join the other processes (give --coordinator_address, --num_processes and "
            f"--process_id, or start under Slurm): {str(error).splitlines()[0]}"
        ) from None


def is_main() -> bool:
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0


def describe() -> str:
    """The devices in words, as "2 x cpu"."""
    kind = jax.devices()[0].device_kind
    return f"{jax.device_count()} x {kind}"


def check_batch_size(batch_size: int) -> None:
    """Raises UserError unless the global batch can be shared out evenly."""
    devices = jax.device_count()
    if batch_size % devices:
        raise UserError(
            f"batch_size {batch_size} is not divisible by the {devices} devices; "
            f"the nearest that is: {max(devices, round(batch_size / devices) * devices)}"
        )


def local_batch_size(batch_size: int) -> int:
    """Examples of each device in a global batch, rounded up."""
    return -(-batch_size // jax.device_count())


def places(local_batch_size: int):
    """int32 [local_batch_size]: where this device's examples are in the global batch (when mapped)."""
    return jax.lax.axis_index(AXIS) * local_batch_size + jax.numpy.arange(local_batch_size)


def replicate(tree):
    """The tree, from the host, with one copy on each device along a new leading axis."""
    devices = jax.local_device_count()
    return jax.tree.map(lambda x: np.broadcast_to(x, (devices, *np.shape(x))), tree)


def unreplicate(tree):
    """The first device's copy of a replicated tree, as NumPy arrays that nothing else writes to."""
    shards = jax.tree.map(lambda x: x.addressable_shards[0].data, tree)
    return jax.tree.map(lambda x: np.array(x[0]), jax.device_get(shards))


def place(tree):
    """The whole tree on every device. Handed over from the host it would be sent at every call."""
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def map_train(function):
    """Maps `function(state, data, count) -> (state, metrics)`; the state is donated."""
    return jax.pmap(function, axis_name=AXIS, in_axes=(0, None, None), donate_argnums=0)


def map_eval(function):
    """Maps `function(variables, data) -> sums`, where variables are replicated."""
    return jax.pmap(function, axis_name=AXIS, in_axes=(0, None))


def agree(*decisions: int) -> tuple[int, ...]:
    """The largest of each decision over all processes, so that all do the same."""
    if jax.process_count() == 1:
        return decisions
    gathered = multihost_utils.process_allgather(np.array(decisions))
    return tuple(int(x) for x in gathered.max(axis=0))


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
