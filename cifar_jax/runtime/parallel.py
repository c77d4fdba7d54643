"""The one place that knows how many devices and processes there are, and where `jax.pmap` lives.

The state is replicated: every leaf has a leading axis of this process's devices. Data is placed
once, whole, on every device. Mapped functions see one device and the axis name `AXIS`.
"""

import os
import socket
import sys
import zlib

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cifar_jax.errors import UserError

AXIS = "batch"
# What JAX raises where a device fails, or a process at the other end of a collective.
RuntimeFailed = jax.errors.JaxRuntimeError


def initialize(coordinator_address, num_processes, process_id) -> None:
    """Joins the other processes of this run; what is None is taken from the cluster (Slurm)."""
    if coordinator_address:
        _check_address(coordinator_address, listens=process_id == 0)
    try:
        jax.distributed.initialize(coordinator_address, num_processes, process_id)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            "could not join the other processes (give --coordinator_address, --num_processes and "
            f"--process_id, or start under Slurm): {str(error).splitlines()[0]}"
        ) from None


def _check_address(address: str, listens: bool) -> None:
    """Raises UserError for what makes JAX crash: no HOST:PORT, or a port that is taken."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator_address={address} is not HOST:PORT, as 192.168.0.1:12345")
    if listens:
        try:
            socket.create_server(("", int(port))).close()
        except OSError as error:
            raise UserError(
                f"--coordinator_address: cannot listen on port {port} ({error.strerror}): "
                "choose another, the same for all processes"
            ) from None


def has_others() -> bool:
    """Whether this process is one of several; does not start the devices, which takes seconds."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_main() -> bool:
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0


def is_another_lost(error: BaseException | None) -> bool:
    """Whether an error is what JAX says when another process of this run has died."""
    return isinstance(error, RuntimeFailed) and has_others()


def leave_if_another_is_lost(error: Exception) -> None:
    """Says that a process of this run is lost and ends this one at once, if that is what happened.

    JAX's own end would wait for the lost one for minutes, and then end this one with less said.
    """
    if not is_another_lost(error):
        return
    reason = " ".join(str(error).split())[:200]
    print(
        f"error: another process of this run was lost ({reason}): start all of them again, to go on "
        "from the last checkpoint",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def end_with_the_others() -> None:
    """After a UserError: ends this process at once unless the others are about to end as well.

    What only one of them met, as a full disk, the others learn by its end; they would else wait for
    it in a collective, and it for them in JAX's own end, for half a minute and more.
    """
    try:
        barrier("end", seconds=10)
    except RuntimeFailed:
        sys.stderr.flush()
        os._exit(1)


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
    """int32 [local_batch_size]: this device's places in the global batch (when mapped)."""
    return jax.lax.axis_index(AXIS) * local_batch_size + jax.numpy.arange(local_batch_size)


def mean(tree):
    """The mean of each leaf over all devices (when mapped); over one device it costs nothing."""
    return tree if jax.lax.axis_size(AXIS) == 1 else jax.lax.pmean(tree, AXIS)


def replicate(tree):
    """The tree, from the host, with one copy on each device along a new leading axis.

    It lies as a mapped function leaves its results, or the second step would be compiled anew.
    """
    devices = jax.local_device_count()
    copies = jax.tree.map(lambda x: np.broadcast_to(x, (devices, *np.shape(x))), tree)
    return jax.device_put(copies, _local_sharding(AXIS))


def unreplicate(tree):
    """The first device's copy of a replicated tree, as NumPy arrays that nothing else writes to."""
    shards = jax.tree.map(lambda x: x.addressable_shards[0].data, tree)
    return jax.tree.map(lambda x: np.array(x[0]), jax.device_get(shards))


def place(tree):
    """The whole tree on every device of this process; from the host it would be sent at every call.

    Every process places its own copy: over the devices of all, JAX would first send the whole of it
    from process to process to compare (half a minute for 400 MB).
    """
    return jax.device_put(tree, _local_sharding())


def _local_sharding(*axes: str) -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec(*axes))


def map_train(function):
    """Maps `function(state, data, count) -> (state, metrics)`; the state is donated."""
    return jax.pmap(function, axis_name=AXIS, in_axes=(0, None, None), donate_argnums=0)


def map_eval(function):
    """Maps `function(variables, data) -> sums`, where variables are replicated."""
    return jax.pmap(function, axis_name=AXIS, in_axes=(0, None))


def agree(*decisions: int) -> tuple[int, ...]:
    """The largest of each decision over all processes, so that all do the same."""
    if not has_others():
        return decisions
    gathered = multihost_utils.process_allgather(np.array(decisions))
    return tuple(int(x) for x in gathered.max(axis=0))


def in_every_process(function, name: str):
    """Calls a function and returns its result; a UserError in one process stops them all.

    The others would else wait for that one until they are killed, minutes later. The call may take
    much longer in one process than in another (a download). A name is used once.
    """
    if not has_others():
        return function()
    error, result = None, None
    try:
        result = function()
    except UserError as raised:
        error = raised
    barrier(name)
    (failed,) = agree(int(error is not None))
    if error:
        raise error
    if failed:
        raise UserError("another process of this run stopped; it says why")
    return result


def check_same(what: str, text: str) -> None:
    """Raises UserError, in every process, unless all have the same text."""
    digest = zlib.crc32(text.encode()) >> 1
    highest, minus_lowest = agree(digest, -digest)
    if highest != -minus_lowest:
        raise UserError(f"the processes of this run differ in {what}: start all of them alike")


def barrier(name: str, seconds: int = 24 * 60 * 60) -> None:
    """Waits until every process is here, for a day if need be; a name is used once.

    For where one process may be late: in a collective of JAX, the others give up after 30 seconds.
    """
    if has_others():
        import orbax.checkpoint as ocp

        wait = ocp.multihost.get_barrier_sync_fn()
        wait(key=f"cifar_jax:{name}", timeout_ms=seconds * 1000)


def say(line: str) -> None:
    """Prints a line, in the main process only, at once."""
    if is_main():
        print(line, flush=True)
