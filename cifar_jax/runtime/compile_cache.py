"""The cache of compiled programs on disk, which makes a second start fast.

It is JAX's persistent compilation cache, with a separate folder for each kind of machine. A loaded
program gives the same bits as a compiled one. Damaged programs are compiled again, and the least
recently used ones are deleted. If the folder cannot be used, this prints a warning and caches nothing.
"""

import contextlib
import hashlib
import os
import re
import warnings
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from cifar_jax.ops import cpu_kernels
from cifar_jax.runtime import settings
from cifar_jax.system import console, files, threads

OFF = "off"
# JAX's settings that `enable()` changes.
SETTINGS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
# A ResNet-20 leaves 2 MB, a ResNet-110 10 MB.
LIMIT_BYTES = 2**30

_JAX_FAILED = re.compile(
    r"Error (reading|writing) persistent compilation cache entry for '([^']+)': (.*)", re.DOTALL
)


def enable(folder: str = "") -> None:
    """Caches compiled programs in a folder from now on. Call it before anything is compiled.

    Args:
      folder: "off" for no cache. "" for JAX's own settings (JAX_COMPILATION_CACHE_DIR,
        JAX_ENABLE_COMPILATION_CACHE), or else for `compiled` in the project's cache folder.
    """
    if folder == OFF:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if not folder and (
        jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache
    ):
        return
    root = Path(os.path.expanduser(folder)) if folder else files.cache_folder() / "compiled"
    place = root / machine()
    try:
        place.mkdir(parents=True, exist_ok=True)
        if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(f"no permission to write in {place}")
        delete_oldest(root, LIMIT_BYTES)
        # No process writes a file for a whole day.
        files.remove_leftovers(files.cache_folder(), seconds=24 * 60 * 60)
    except OSError as error:
        _warn(root, error)
        return
    jax.config.update("jax_compilation_cache_dir", str(place))
    # A start runs dozens of small programs; loading even a small one is faster than compiling it.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    warnings.showwarning = _heals(place, warnings.showwarning)


@threads.shared
@contextlib.contextmanager
def enabled():
    """Inside the `with`, compiled programs are cached as after `enable()`; then JAX is set as before.

    For a process that is not ours, in which something may have been compiled already.
    """
    folder, show = jax.config.jax_compilation_cache_dir, warnings.showwarning
    with settings.restored(SETTINGS):
        enable()
        changed = jax.config.jax_compilation_cache_dir != folder
        if changed:
            compilation_cache.reset_cache()  # JAX reads the folder once
        try:
            yield
        finally:
            warnings.showwarning = show
            if changed:
                compilation_cache.reset_cache()


def machine() -> str:
    """A name that machines with interchangeable programs share.

    XLA compiles for the instruction set and the number of cores of this processor. JAX's cache key has
    neither, and on another machine a program may crash or be slow.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    words = f"{cpu_kernels.processor()}\n{cores}"
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def delete_oldest(folder: Path, limit: int) -> None:
    """Deletes the least recently used files below a folder until at most `limit` bytes are left."""
    found = []
    for path in folder.rglob("*"):
        # Another process may delete files at the same time.
        with contextlib.suppress(OSError):
            status = path.stat()
            if path.is_file():
                found.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            return
        with contextlib.suppress(OSError):
            path.unlink()
        total -= size


def _heals(folder: Path, show):
    """A `warnings.showwarning` that repairs the cache when JAX warns about it, instead of printing that.

    JAX does not write atomically, so a kill or a full disk leaves a part of a program. JAX would warn
    about it at every start and never replace it.
    """

    def showwarning(message, *args, **kwargs):
        found = _JAX_FAILED.match(str(message))
        if not found:
            show(message, *args, **kwargs)
            return
        action, program, why = found.groups()
        for path in folder.glob(f"{program}-*"):
            with contextlib.suppress(OSError):
                path.unlink()
        if action == "writing":
            _warn(folder, OSError(why))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", float("inf"))

    return showwarning


def _warn(folder: Path, error: OSError) -> None:
    console.warn(f"compiled programs cannot be cached in {folder}: {files.reason(error)}")
