"""Weights files of other libraries: told apart by their bytes, and read without running code in them."""

import warnings
from collections.abc import Mapping

import numpy as np
import safetensors

from cifar_jax.errors import UserError
from cifar_jax.inference import weights
from cifar_jax.system import files

# Keys under which a larger file may hold the state dict. Averaged weights are read if there are no others.
WRAPPERS = ("net", "state_dict", "model", "model_state_dict", "ema", "state_dict_ema")
# Prefixes that parallel and compiled training and wrapping modules add to every name.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.")
# The numbers of batches that a batch norm, and of models that an average, has seen; not needed here.
COUNTERS = ("num_batches_tracked", "n_averaged")

# The longest header that the safetensors library reads, in bytes.
LONGEST_HEADER = 100_000_000


def is_other(path: str) -> bool:
    """Whether this module reads a file: it is a PyTorch file, or lacks our metadata.

    Raises UserError if it is not a file, or neither a safetensors nor a PyTorch file.
    """
    if _is_pytorch(path):
        return True
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return weights.METADATA_KEY not in (file.metadata() or {})
    # A damaged file is reported where it is read.
    except (OSError, safetensors.SafetensorError):
        return False


def read(path: str) -> dict[str, np.ndarray]:
    """The tensors of a file under their own names, as float32, without counters and common prefixes.

    Raises:
      UserError: the file cannot be read, is not a state dict, or contains NaN or infinity.
    """
    tensors = _read_pytorch(path) if _is_pytorch(path) else _read_safetensors(path)
    tensors = {
        name: np.asarray(array, np.float32)
        for name, array in tensors.items()
        if name.rpartition(".")[2] not in COUNTERS
    }
    if not tensors:
        raise UserError(f"{files.shown(path)} holds no tensors")
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise UserError(f"{files.shown(path)}: {name} has values that are NaN or infinite")
    while prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in tensors)), None):
        tensors = {name.removeprefix(prefix): array for name, array in tensors.items()}
    return tensors


def _is_pytorch(path: str) -> bool:
    """Whether a file is PyTorch's; otherwise it is a safetensors file. Raises UserError if it is neither."""
    files.check_regular_file(path)
    shown = files.shown(path)
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError as error:
        raise UserError(f"{shown} cannot be read: {files.reason(error)}") from error
    # First: the length of a header may look like the start of a pickle.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= LONGEST_HEADER:
        return False
    # A zip, a pickle of protocol 2 or newer, or a tar.
    if start.startswith((b"PK\x03\x04", b"\x80")) or start[257:262] == b"ustar":
        return True
    hint = ""
    if start.lstrip().startswith(b"<"):
        hint = ": it is a web page; download the file itself"
    elif start.startswith(b"version https://git-lfs"):
        hint = ": it is a pointer of Git LFS; get the file itself with git lfs pull"
    raise UserError(f"{shown} is damaged, or neither a safetensors nor a PyTorch file{hint}")


def _read_safetensors(path: str) -> dict:
    shown = files.shown(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise UserError(f"{shown} cannot be read: {files.reason(error)}") from error
    # NumPy lacks some of the format's types (bfloat16), and the library reports that with various errors.
    except (safetensors.SafetensorError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{shown} is damaged or not of float32: {files.reason(error)}") from error


def _read_pytorch(path: str) -> dict:
    shown = files.shown(path)
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{shown} is a PyTorch file, and PyTorch is not installed: pip install torch, or convert it "
            "elsewhere with safetensors.torch.save_file(state_dict, FILE)"
        ) from None
    try:
        # Given a path, torch.load would judge by its suffix. Users cannot act on its warnings about how the
        # file was written.
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.load(file, map_location="cpu", weights_only=True)
    # For damaged files and files with code, torch.load may raise nearly anything, in many lines.
    except Exception as error:
        if "Unsupported" in str(error) or "TorchScript" in str(error):
            raise UserError(
                f"{shown} holds other objects than tensors, which are not loaded because they could run "
                "code: save only the model's state_dict()"
            ) from None
        raise UserError(f"{shown} is damaged or not a PyTorch file") from None
    while inner := _unwrapped(found):
        found = inner
    if not isinstance(found, Mapping):
        raise UserError(f"{shown} is not a state dict but a {type(found).__name__}")
    return {
        str(name): value.detach().float().numpy()
        for name, value in found.items()
        if isinstance(value, torch.Tensor)
    }


def _unwrapped(found) -> Mapping | None:
    """What a wrapper holds; None if there is no wrapper, or nothing in it."""
    if not isinstance(found, Mapping):
        return None
    held = (found.get(wrapper) for wrapper in WRAPPERS)
    return next((inner for inner in held if isinstance(inner, Mapping) and inner), None)
