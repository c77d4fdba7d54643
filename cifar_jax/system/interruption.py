"""Ctrl-C and SIGTERM at any moment.

If there is something to save, the first signal is only noted, and the training loop saves and exits.
Otherwise, and at a second signal, the process exits at once.

A thread handles the signals. Python's own handlers would wait until compiled code returns, which may take
minutes, and an exception in the middle of starting threads may crash. Imports only the standard library, to
be ready first.
"""

import contextlib
import os
import signal
import threading
import time

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# The same signal again within this time is an echo: `timeout` signals a process, then its group.
ECHO_SECONDS = 0.5

# (process, file descriptor that Python writes signal numbers to). A forked process gets its own.
_wakeup = None
# The Interruption that notes signals now, and the function that gets them instead.
_noting = None
_passed_to = None
_advice = ""
_functions = []


def hold() -> None:
    """Blocks signals until `listen`, even if the program restarts itself in between."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def listen() -> None:
    """Handles signals from now on. Call it in the main thread, and again if a library took them over."""
    global _wakeup
    if _wakeup is None or _wakeup[0] != os.getpid():
        ours, theirs = os.pipe()
        os.set_blocking(theirs, False)
        _wakeup = os.getpid(), theirs
        threading.Thread(target=_follow, args=(ours,), name="signals", daemon=True).start()
    for number in _SIGNALS:
        # Python writes to the descriptor only for signals with a handler.
        signal.signal(number, lambda number, frame: None)
    signal.set_wakeup_fd(_wakeup[1], warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def advise(text: str) -> None:
    """Sets what is printed after "SIGNAL: stopped" when the process exits at once."""
    global _advice
    _advice = text


@contextlib.contextmanager
def passed_to(function):
    """Inside the `with`, calls `function(number)` in another thread for every signal."""
    global _passed_to
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    wakeup = signal.set_wakeup_fd(-1)
    _passed_to = function
    listen()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        _passed_to = None


def before_leaving(function) -> None:
    """Registers a function to call before the process exits at once. The last one is called first."""
    _functions.insert(0, function)


class Interruption:
    """Notes signals in a `with`: `signal` is the number of the first one after `begin`, or 0."""

    def __init__(self, is_quiet: bool = False):
        """`is_quiet`: print nothing, because another process of the run does."""
        self.is_quiet = is_quiet
        self.signal = 0
        # This process's first signal and its time. `signal` may be set for another process's signal too.
        self.noted = None

    def begin(self) -> None:
        """From now on, signals are noted instead of ending the process at once."""
        global _noting
        _noting = self

    def is_echo(self, number: int) -> bool:
        """Whether a signal that comes now is an echo of the first."""
        if self.noted is None:
            return False
        first, at = self.noted
        return number == first and time.monotonic() < at + ECHO_SECONDS

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        global _noting
        _noting = None


def _act(number: int) -> None:
    function = _passed_to
    if function:
        function(number)
        return
    noting, name = _noting, signal.Signals(number).name
    if noting and noting.is_echo(number):
        return
    if noting and noting.noted is None:
        noting.noted = number, time.monotonic()
        noting.signal = number
        if not noting.is_quiet:
            _print(f"{name}: saving, then exiting; send it again to exit at once")
        return
    for before in _functions:
        with contextlib.suppress(Exception):
            before()
    _print(f"{name}: stopped{_advice}")
    os._exit(128 + number)


def _print(line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode(errors="backslashreplace"))


def _follow(descriptor: int) -> None:
    while True:
        for number in os.read(descriptor, 64):
            if number in _SIGNALS:
                _act(number)
