"""Devices and processes. Only this file asks JAX how many there are, and only it calls `jax.pmap`.

The state is replicated: every leaf has a leading axis over this process's devices. The whole data set is
placed on every device once. Mapped functions see one device and the axis `AXIS`.
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
# The error of JAX when a device fails, or another process of a collective.
RuntimeFailed = jax.errors.JaxRuntimeError


def initialize(coordinator_address, num_processes, process_id) -> None:
    """Joins the other processes of this run. Arguments that are None come from the cluster (Slurm)."""
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
    """Raises UserError for addresses that crash JAX: not HOST:PORT, or a port that is taken."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(
            f"--coordinator_address={address} is not HOST:PORT, for example 192.168.0.1:12345"
        )
    if listens:
        try:
            socket.create_server(("", int(port))).close()
        except OSError as error:
            raise UserError(
                f"--coordinator_address: cannot listen on port {port} ({error.strerror}): "
                "choose another, the same for all processes"
            ) from None


def why_no_devices(error: Exception) -> str:
    """What to do, in words, if an error means that JAX cannot start the devices; "" for other errors."""
    if not isinstance(error, RuntimeError | AssertionError):
        return ""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as again:  # the latter has no words: a plug-in is missing
        asked = f" of JAX_PLATFORMS={jax.config.jax_platforms}" if jax.config.jax_platforms else ""
        reason = f" ({str(again).splitlines()[0]})" if str(again) else ""
        return (
            f"JAX cannot start the devices{asked}{reason}: unset JAX_PLATFORMS, or install "
            "requirements-cuda.txt and the driver of the GPU"
        )
    return ""


def has_others() -> bool:
    """Whether this run has several processes. Does not start the devices, which takes seconds."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_main() -> bool:
    """Whether this is the main process, which prints and writes files."""
    return jax.process_index() == 0


def is_another_lost(error: BaseException | None) -> bool:
    """Whether an error means that another process of this run has died."""
    failed = isinstance(error, RuntimeFailed)
    # A collective of the hosts' own, as in a save.
    failed |= isinstance(error, ValueError) and "Gloo" in str(error)
    return failed and has_others()


def leave_if_another_is_lost(error: Exception) -> None:
    """If another process of this run has died, prints that and exits at once.

    JAX itself would wait for minutes, then exit with a less helpful message.
    """
    if not is_another_lost(error):
        return
    reason = " ".join(str(error).split())[:200]
    print(
        f"error: another process of this run died ({reason}): restart all of them to resume from the "
        "last checkpoint",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def end_with_the_others() -> None:
    """After a UserError: exits at once unless the other processes are about to exit as well.

    If only this process failed, for example on a full disk, the others would wait for it in a collective,
    and it for them when JAX shuts down, for half a minute or more. Its exit tells them.
    """
    try:
        barrier("end", seconds=10)
    except RuntimeFailed:
        sys.stderr.flush()
        os._exit(1)


def describe() -> str:
    """The devices in words: "2 x cpu"."""
    kind = jax.devices()[0].device_kind
    return f"{jax.device_count()} x {kind}"


def check_batch_size(batch_size: int) -> None:
    """Raises UserError unless the global batch can be split evenly over the devices."""
    devices = jax.device_count()
    if batch_size % devices:
        raise UserError(
            f"batch_size {batch_size} is not divisible by the {devices} devices; "
            f"the nearest that is: {max(devices, round(batch_size / devices) * devices)}"
        )


def local_batch_size(batch_size: int) -> int:
    """The number of examples per device in a global batch, rounded up."""
    return -(-batch_size // jax.device_count())


def places(local_batch_size: int):
    """This device's places in the global batch: int32 [local_batch_size]. For mapped functions."""
    return jax.lax.axis_index(AXIS) * local_batch_size + jax.numpy.arange(local_batch_size)


def mean(tree):
    """The mean of each leaf over all devices. For mapped functions; free on one device."""
    return tree if jax.lax.axis_size(AXIS) == 1 else jax.lax.pmean(tree, AXIS)


def replicate(tree):
    """Copies a tree from the host to each device, along a new leading axis.

    The sharding equals that of a mapped function's results; otherwise the second step would compile again.
    """
    devices = jax.local_device_count()
    copies = jax.tree.map(lambda x: np.broadcast_to(x, (devices, *np.shape(x))), tree)
    return jax.device_put(copies, _local_sharding(AXIS))


def unreplicate(tree):
    """The first device's copy of a replicated tree, as NumPy arrays of their own."""
    shards = jax.tree.map(lambda x: x.addressable_shards[0].data, tree)
    return jax.tree.map(lambda x: np.array(x[0]), jax.device_get(shards))


def place(tree):
    """Puts the whole tree on every device of this process, so that no call sends it again.

    Every process places its own copy. With the devices of all processes, JAX would first send the data
    between them to compare it (half a minute for 400 MB).
    """
    return jax.device_put(tree, _local_sharding())


def _local_sharding(*axes: str) -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec(*axes))


def map_train(function):
    """Maps `function(state, data, seed, count) -> (state, metrics)`. The state is donated."""
    return jax.pmap(function, axis_name=AXIS, in_axes=(0, None, None, None), donate_argnums=0)


def map_eval(function):
    """Maps `function(variables, data) -> sums`. Variables are replicated."""
    return jax.pmap(function, axis_name=AXIS, in_axes=(0, None))


def agree(*decisions: int) -> tuple[int, ...]:
    """The maximum of each decision over all processes, so that all of them decide alike."""
    if not has_others():
        return decisions
    gathered = multihost_utils.process_allgather(np.array(decisions))
    return tuple(int(x) for x in gathered.max(axis=0))


def in_every_process(function, name: str):
    """Calls a function and returns its result. A UserError in one process stops them all.

    Otherwise the others would wait for that process for minutes. The call may take much longer in one
    process than in another (a download). Use each name once.
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
        raise UserError("another process of this run stopped: see its message")
    return result


def check_same(what: str, text: str) -> None:
    """Raises UserError in every process unless all have the same text."""
    digest = zlib.crc32(text.encode()) >> 1
    highest, minus_lowest = agree(digest, -digest)
    if highest != -minus_lowest:
        raise UserError(f"the processes of this run differ in {what}: start all of them alike")


def barrier(name: str, seconds: int = 24 * 60 * 60) -> None:
    """Waits until every process has called this, for up to a day. Use each name once.

    Needed if one process may be late: in a collective of JAX, the others give up after 30 seconds.
    """
    if has_others():
        import orbax.checkpoint as ocp

        wait = ocp.multihost.get_barrier_sync_fn()
        wait(key=f"cifar_jax:{name}", timeout_ms=seconds * 1000)


def say(line: str) -> None:
    """Prints a line in the main process, without buffering."""
    if is_main():
        print(line, flush=True)
