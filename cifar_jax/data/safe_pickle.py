"""Reading the pickles of the official CIFAR files without running any code in them.

The unpickler builds nothing but the dictionaries, lists, strings and uint8 arrays of these files.
"""

import io
import pickle

import numpy as np

from cifar_jax.errors import UserError
from cifar_jax.system import files


def read_pickle(content: bytes, where: str) -> dict:
    """The dictionary in an official batch or meta file, with its keys as strings.

    Args:
      content: the file.
      where: its name, for messages.

    Raises:
      UserError: it is anything else, or asks for anything but uint8 arrays.
    """
    try:
        value = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        return {key.decode(): value for key, value in value.items()}
    # A broken pickle may raise nearly anything.
    except Exception as error:
        raise UserError(
            f"{where} is not a pickle in the official layout ({files.reason(error)})."
        ) from error


class _Array:
    """Replaces numpy.ndarray: builds a uint8 array from its pickled state."""

    __slots__ = ("array",)

    def __setstate__(self, state):
        _, shape, dtype, is_fortran, content = state
        if type(dtype) is not _Dtype or type(content) is not bytes:
            raise pickle.UnpicklingError("its array is not of bytes")
        flat = np.frombuffer(content, np.uint8)
        self.array = flat.reshape(shape, order="F" if is_fortran else "C")


class _Dtype:
    """Replaces numpy.dtype: allows uint8 only."""

    __slots__ = ()

    def __init__(self, name, *_):
        if name not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"its array is of type {name!r}, not of bytes")

    def __setstate__(self, state):
        pass


class _Reconstruct:
    """Replaces the function with which NumPy's pickles begin an array."""

    __slots__ = ()

    def __call__(self, *_):
        return _Array()


class _Encode:
    """Replaces codecs.encode, with which Python 3 writes bytes in protocol 2."""

    __slots__ = ()

    def __call__(self, text, encoding):
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}")
        return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Gives a pickle one of the replacements above for each name it asks for, or refuses."""

    _stand_ins = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
        ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(),
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _Encode(),
    }

    def find_class(self, module, name):
        try:
            return self._stand_ins[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None

    def load(self):
        value = super().load()
        if not isinstance(value, dict):
            raise pickle.UnpicklingError("it holds no dictionary")
        return {
            key: entry.array if isinstance(entry, _Array) else entry for key, entry in value.items()
        }
