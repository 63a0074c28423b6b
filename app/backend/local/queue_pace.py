"""Measure how fast the queue moves, for the `Retry-After` of refused requests."""

import math
from collections import deque
from collections.abc import Callable

LONGEST_S = 60
"""The longest `Retry-After`: clients ignore a longer one."""


class QueuePace:
    """The mean time between the last starts of jobs, measured while jobs wait."""

    MEASURED_STARTS = 20

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._starts: deque[float] = deque(maxlen=self.MEASURED_STARTS + 1)

    def job_queued(self) -> None:
        """Start measuring, if this is the first job since the queue was empty."""
        if not self._starts:
            self._starts.append(self._clock())

    def job_started(self) -> None:
        """Count a job that has left the queue for a worker."""
        self._starts.append(self._clock())

    def queue_emptied(self) -> None:
        """Stop measuring."""
        self._starts.clear()

    def retry_after_s(self, waiting: int, timeout_s: float) -> int | None:
        """Seconds after which a new job would wait for at most `timeout_s`; None if no job waits.

        Not before the next job starts. `waiting`: the jobs that would be ahead of it.
        """
        if not self._starts:
            return None
        interval_s = (self._clock() - self._starts[0]) / max(1, len(self._starts) - 1)
        seconds = max(interval_s, waiting * interval_s - timeout_s)
        return min(max(1, math.ceil(seconds)), LONGEST_S)
