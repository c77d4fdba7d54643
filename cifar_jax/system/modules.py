"""The package `configs` beside this one, where another project has one of that name too."""

import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

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


def _take() -> dict:
    """Removes the package from the imported modules and returns it: {name: module}."""
    names = [name for name in sys.modules if name.split(".")[0] == _NAME]
    return {name: sys.modules.pop(name) for name in names}
