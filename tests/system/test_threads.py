"""Contexts that threads share."""

import contextlib
import threading

import pytest

from cifar_jax.system import threads


def test_what_threads_share_is_entered_by_the_first_and_left_by_the_last():
    seen = []

    @threads.shared
    @contextlib.contextmanager
    def context():
        """What it is for."""
        seen.append("in")
        yield
        seen.append("out")

    first_is_in, first_may_go = threading.Event(), threading.Event()

    def first():
        with context():
            first_is_in.set()
            first_may_go.wait(30)

    thread = threading.Thread(target=first)
    thread.start()
    first_is_in.wait(30)
    with context(), context():
        first_may_go.set()
        thread.join()
        assert seen == ["in"]
    assert seen == ["in", "out"]
    with pytest.raises(KeyError), context():
        raise KeyError
    assert seen == ["in", "out"] * 2
    assert context.__doc__ == "What it is for."
