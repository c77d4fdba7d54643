"""Imports: the package `configs` beside this one, where another project has one too; files as modules."""

import contextlib
import importlib.util
import secrets
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

_ROOT = str(Path(__file__).resolve().parents[2])
_NAME = "configs"
_lock = threading.RLock()
_ours = {}


def prefer_ours() -> None:
    """Makes `import configs` give the package of this program, in a process that is this program's."""
    if _ROOT not in sys.path[:1]:
        sys.path.insert(0, _ROOT)


@contextlib.contextmanager
def our_configs() -> Iterator[None]:
    """Inside the `with`, `import configs` gives the package of this program; then, what it gave before."""
    known = sys.modules.get(_NAME)
    if known and getattr(known, "__file__", None) == f"{_ROOT}/{_NAME}/__init__.py":
        yield
        return
    with _lock:
        theirs = _take()
        sys.modules.update(_ours)
        sys.path.insert(0, _ROOT)
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.path.remove(_ROOT)
            _ours.update(_take())
            sys.modules.update(theirs)


@contextlib.contextmanager
def of_file(path: str) -> Iterator[ModuleType]:
    """Runs a Python file and yields its module; raises whatever its code raises.

    Inside the `with`, it is among the imported modules, as dataclasses need, under a name of its own.
    """
    name = f"file_{secrets.token_hex(8)}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.modules.pop(name, None)


def _take() -> dict:
    """Removes the package from the imported modules and returns it: {name: module}."""
    names = [name for name in sys.modules if name.split(".")[0] == _NAME]
    return {name: sys.modules.pop(name) for name in names}
