"""How fast the queue moves, so that refused clients know when to come again."""

import math
from collections import deque
from collections.abc import Callable

LONGEST_S = 60
"""Clients ignore a `Retry-After` of more."""


class QueuePace:
    """The mean time between the last starts of jobs, measured while jobs wait."""

    LAST = 20

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._starts: deque[float] = deque(maxlen=self.LAST + 1)

    def waits(self) -> None:
        """A job waits: the first since the queue was empty starts the measurement."""
        if not self._starts:
            self._starts.append(self._clock())

    def started(self) -> None:
        """A job that waited has been given to a worker."""
        self._starts.append(self._clock())

    def is_empty(self) -> None:
        """No job waits any more."""
        self._starts.clear()

    def retry_after_s(self, waiting: int, patience_s: float) -> int | None:
        """Return after how long a new job would have its turn within `patience_s`, in seconds.

        At least until the next job starts. `waiting`: jobs before it. None if no job waits.
        """
        if not self._starts:
            return None
        interval_s = (self._clock() - self._starts[0]) / max(1, len(self._starts) - 1)
        seconds = max(interval_s, waiting * interval_s - patience_s)
        return min(max(1, math.ceil(seconds)), LONGEST_S)
