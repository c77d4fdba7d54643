"""Contexts that change the whole process, for several threads at once."""

import contextlib
import threading
from collections.abc import Callable, Iterator


def shared(context: Callable) -> Callable:
    """A decorator for contexts without arguments: threads that are in one at the same time share it.

    The first to come enters it, the last to go leaves it. So what it changes is restored once, to what it
    was before the first.
    """
    lock, inside, entered = threading.Lock(), 0, None

    @contextlib.contextmanager
    def entered_once() -> Iterator[None]:
        nonlocal inside, entered
        with lock:
            if not inside:
                entered = context()
                entered.__enter__()
            inside += 1
        try:
            yield
        finally:
            with lock:
                inside -= 1
                if not inside:
                    entered.__exit__(None, None, None)

    entered_once.__doc__ = context.__doc__
    return entered_once
