"""Ctrl-C and SIGTERM at any moment: while there is something to save, the first one is noted, for the
training loop to save and leave; else, and at the second, the process leaves at once.

A thread acts on them. Python itself would wait until the main thread is back from compiled code, and
compiling a large network takes minutes; and an exception that unwinds through starting threads may
crash. Only the standard library is imported here, to be ready before everything else is.
"""

import contextlib
import os
import signal
import threading
import time

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# What comes so soon after the first is a part of it: `timeout` signals a process and then its group.
ECHO_SECONDS = 0.5

# The process that listens and where it has Python write the numbers of signals: a fork has its own.
_wakeup = None
# The Interruption that notes signals now, and what they are passed on to instead.
_noting = None
_passed_to = None
_advice = ""
_functions = []


def hold() -> None:
    """Keeps signals waiting until `listen`, through a new start of the program as well."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def listen() -> None:
    """Acts on signals from now on; to be called by the main thread, again after others took them."""
    global _wakeup
    if _wakeup is None or _wakeup[0] != os.getpid():
        ours, theirs = os.pipe()
        os.set_blocking(theirs, False)
        _wakeup = os.getpid(), theirs
        threading.Thread(target=_follow, args=(ours,), name="signals", daemon=True).start()
    for number in _SIGNALS:
        # It must be a function for Python to tell the thread.
        signal.signal(number, lambda number, frame: None)
    signal.set_wakeup_fd(_wakeup[1], warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def advise(text: str) -> None:
    """What the last line says, when the process leaves at once, on how to go on."""
    global _advice
    _advice = text


@contextlib.contextmanager
def passed_to(function):
    """Listens in the `with` and has `function(number)` called for every signal, in another thread."""
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
    """Has a function called before the process leaves at once; the last one given comes first."""
    _functions.insert(0, function)


class Interruption:
    """`signal` is the number of the first signal that came in the `with`, after `begin`; else 0."""

    def __init__(self, is_quiet: bool = False):
        """`is_quiet` where another process of the run says what is done."""
        self.is_quiet = is_quiet
        self.signal = 0
        # The first one and when it came; apart from `signal`, which may also be what another process got.
        self.noted = None

    def begin(self) -> None:
        """From here on there is something to save."""
        global _noting
        _noting = self

    def is_echo(self, number: int) -> bool:
        """Whether a signal that comes now is a part of the first."""
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
            _print(f"{name}: saving, then leaving; once more to leave at once")
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
