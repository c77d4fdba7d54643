"""Our own CPU kernels in float32: convolution, max pooling, and the sums of batch norm.

`kernels/` is compiled when a CPU first needs it, with the machine's C++ compiler (CXX, or else c++, g++ or
clang++). This takes a few seconds, and the result is kept in the user's cache folder. Without a compiler, and
for other types, callers use XLA's operations, which give the same results to rounding but are several times
slower. CIFAR_JAX_CPU_KERNELS=0 in the environment selects them too.
"""

import contextlib
import contextvars
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from cifar_jax.errors import UserError
from cifar_jax.system import console, files

_SOURCE = Path(__file__).parent / "kernels" / "kernels.cc"
_NAMES = (
    "conv_forward",
    "conv_grad_images",
    "conv_grad_kernel",
    "depthwise_forward",
    "depthwise_grad_images",
    "depthwise_grad_kernel",
    "max_pool",
    "max_pool_grad",
    "channel_moments",
    "normalize_grad_sums",
)
_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-w")
_portable = contextvars.ContextVar("portable", default=False)

Padding = tuple[tuple[int, int], tuple[int, int]]


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Inside this block, functions are traced for every platform: with XLA's own operations only."""
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


def is_portable() -> bool:
    """Whether a function is being traced inside `portable`."""
    return _portable.get()


def on_cpu() -> bool:
    """Whether what is being traced is for this machine's CPU: no GPU is used, and no `portable` around it.

    Only the code of this platform is traced: with `lax.platform_dependent`, every start would trace and
    differentiate the code of all of them.
    """
    return not _portable.get() and jax.default_backend() == "cpu"


def available(*arrays: jax.Array) -> bool:
    """Whether the kernels can be used for these arrays: on a CPU, and all of them float32."""
    return on_cpu() and all(x.dtype == jnp.float32 for x in arrays) and version() is not None


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def convolve(images: jax.Array, kernel: jax.Array, stride: int, padding: Padding, depthwise: bool):
    """Convolution of [batch, height, width, in] with [height, width, in, out], padded with zeros.

    If `depthwise`, the kernel is [height, width, 1, channel]: each channel has its own.
    """
    height, width = (
        (images.shape[1 + a] + sum(padding[a]) - kernel.shape[a]) // stride + 1 for a in range(2)
    )
    name = "depthwise_forward" if depthwise else "conv_forward"
    result = _like(images.shape[0], height, width, kernel.shape[3])
    return _call(name, result, images, kernel, **_geometry(stride, padding))


def _convolve_forward(images, kernel, stride, padding, depthwise):
    return convolve(images, kernel, stride, padding, depthwise), (images, kernel)


def _convolve_backward(stride, padding, depthwise, residuals, grad):
    images, kernel = residuals
    kind = "depthwise" if depthwise else "conv"
    geometry = _geometry(stride, padding)
    return (
        _call(f"{kind}_grad_images", images, grad, kernel, **geometry),
        _call(f"{kind}_grad_kernel", kernel, images, grad, **geometry),
    )


convolve.defvjp(_convolve_forward, _convolve_backward)


def max_pool(x: jax.Array, window: int, stride: int, padding: int) -> jax.Array:
    """Maximum over windows of at most 15x15 in [batch, height, width, channel]. NaN counts as largest."""
    return _max_pool(x, x.shape, window, stride, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _max_pool(x, shape, window, stride, padding):
    return _max_pool_forward(x, shape, window, stride, padding)[0]


def _max_pool_forward(x, shape, window, stride, padding):
    batch, height, width, channels = shape
    height, width = ((size + 2 * padding - window) // stride + 1 for size in (height, width))
    y = _like(batch, height, width, channels)
    places = jax.ShapeDtypeStruct(y.shape, jnp.uint8)
    return _call("max_pool", (y, places), x, window=window, stride=stride, padding=padding)


def _max_pool_backward(shape, window, stride, padding, places, grad):
    geometry = {"window": window, "stride": stride, "padding": padding}
    return (_call("max_pool_grad", _like(*shape), grad, places, **geometry),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def channel_moments(x: jax.Array, shift: jax.Array) -> jax.Array:
    """[2, channel]: the sums over [..., channel] of x - shift and of its square."""
    return _call("channel_moments", _like(2, x.shape[-1]), x, shift)


def normalize_grad_sums(grad, x, mean, scale, bias, low: float, high: float) -> jax.Array:
    """[2, channel]: the sums over [..., channel] of g and of g * (x - mean).

    g is `grad` where low < (x - mean) * scale + bias < high, and zero elsewhere.
    """
    bounds = {"low": np.float32(low), "high": np.float32(high)}
    return _call("normalize_grad_sums", _like(2, x.shape[-1]), grad, x, mean, scale, bias, **bounds)


def _geometry(stride: int, padding: Padding) -> dict[str, int]:
    return {"stride": stride, "top": padding[0][0], "left": padding[1][0]}


def _call(name: str, results, *arrays: jax.Array, **attributes):
    """Calls a kernel with results of these shapes and types."""
    call = jax.ffi.ffi_call(_target(name, version()), results, vmap_method="sequential")
    return call(*arrays, **attributes)


def _like(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _target(name: str, version: str) -> str:
    """The name of a kernel in XLA, and in compiled programs on disk."""
    return f"cifar_jax_{name}_{version}"


@functools.cache
def version() -> str | None:
    """Makes the kernels available to XLA and returns their version; None if there are none."""
    if os.environ.get("CIFAR_JAX_CPU_KERNELS") == "0":
        return None
    try:
        version, library = _built()
        _register(version, library)
    except (UserError, OSError) as error:
        console.warn(f"{files.reason(error)}: training on the CPU is several times slower")
        return None
    return version


@functools.cache
def _register(version: str, library: Path) -> None:
    loaded = ctypes.CDLL(str(library))
    try:
        functions = {name: jax.ffi.pycapsule(getattr(loaded, name)) for name in _NAMES}
    except AttributeError as error:
        raise UserError(f"{library} is not a library of the CPU kernels") from error
    for name, function in functions.items():
        jax.ffi.register_ffi_target(_target(name, version), function, platform="cpu")


def _built() -> tuple[str, Path]:
    """(version, library) of the kernels for this machine, compiled if they are not in the cache.

    Raises:
      UserError: they cannot be compiled or stored; the message says why.
    """
    flags = [*_FLAGS, *_target_flags()]
    sources = [path.read_text() for path in (_SOURCE, *sorted(_SOURCE.parent.glob("*.h")))]
    chosen = os.environ.get("CXX", "")
    ingredients = [*sources, jaxlib.__version__, processor(), *flags, *filter(None, [chosen])]
    version = hashlib.sha256("\n".join(ingredients).encode()).hexdigest()[:16]
    library = files.cache_folder() / f"cpu_kernels_{version}.so"
    if _is_whole(library):
        return version, library
    compiler = chosen or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        if library.exists() and not _digest_file(library).exists():  # an older version made it
            return version, library
        raise UserError("no C++ compiler found (install g++ or clang, or set CXX)")
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {library.parent}: {files.reason(error)}") from error
    with files.atomic_path(library) as path:
        try:
            command = [*shlex.split(compiler), *flags, f"-I{jax.ffi.include_dir()}", str(_SOURCE)]
            command += ["-o", path]
            subprocess.run(command, check=True, capture_output=True, errors="replace")
        except (subprocess.CalledProcessError, OSError, ValueError) as error:
            said = (getattr(error, "stderr", "") or "").strip() or files.reason(error)
            first = said.splitlines()[0]
            raise UserError(f"{compiler} cannot compile the CPU kernels ({first})") from error
        made = Path(path).read_bytes()
        if not all(name.encode() in made for name in _NAMES):
            raise UserError(f"{compiler} made no library of the CPU kernels")
    files.write_bytes(_digest_file(library), hashlib.sha256(made).hexdigest().encode())
    return version, library


def _is_whole(library: Path) -> bool:
    """Whether the library is there and not damaged: loading a part of one may end the process."""
    try:
        found = hashlib.sha256(library.read_bytes()).hexdigest()
        return _digest_file(library).read_bytes() == found.encode()
    except OSError:
        return False


def _digest_file(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _target_flags() -> list[str]:
    """The flags that let the compiler use all instructions of this machine."""
    return ["-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"]


def processor() -> str:
    """Identifies a processor's instruction set. Different machines may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    return "\n".join([platform.machine(), platform.processor(), *features])
