"""How fast training is: how many steps to dispatch at once, and images per second."""

import time


class Pace:
    """Measures dispatches of steps. `dispatches` is how many have ended.

    The first dispatch counts only while there is no other: the host does other work beside it.
    """

    def __init__(self, steps_per_dispatch: int, batch_size: int):
        self._fixed = steps_per_dispatch
        self._batch_size = batch_size
        self._last_count = 0
        self._step_seconds = 0.0
        self._last_end = 0.0
        self.dispatches = 0
        self.restart()

    def restart(self) -> None:
        """Measures images per second from now on."""
        self._steps = 0
        self._seconds = 0.0
        self._first = (0, 0.0)

    def next_count(self) -> int:
        """Steps of the next dispatch: those that take about a second, approached fourfold from one."""
        if self._fixed:
            return self._fixed
        if not self._step_seconds:
            return 1
        return max(1, min(4 * self._last_count, int(1 / self._step_seconds)))

    def ended(self, count: int, start: float) -> None:
        """Notes that a dispatch of `count` steps, made at the time `start`, has just ended."""
        end = time.perf_counter()
        seconds = end - max(start, self._last_end)
        self.dispatches += 1
        if not self._last_end:
            self._first = (count, seconds)
        else:
            self._steps += count
            self._seconds += seconds
            self._step_seconds = max(seconds / count, 1e-9)
            self._last_count = count
        self._last_end = end

    def forget(self) -> None:
        """Leaves out the dispatch under way, because the host is busy with something else."""
        self._last_end = 0.0

    def images_per_second(self) -> float:
        steps, seconds = (self._steps, self._seconds) if self._steps else self._first
        return steps * self._batch_size / max(seconds, 1e-9)
