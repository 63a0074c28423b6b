"""A clock that stands still while this process does not run.

A process may be suspended: by SIGSTOP, with its container or its machine. Afterwards its own
absence must not count as the silence of others, so limits on others are measured by this clock.
"""

from time import monotonic

MAX_GAP_S = 2.0
"""The backend reads the clock twice a second: the process was absent during longer gaps."""


class RunningTime:
    """To be read on the event loop only, at least once a second."""

    def __init__(self) -> None:
        self._read_at = monotonic()
        self._absent_s = 0.0

    def __call__(self) -> float:
        """Seconds, as `monotonic`."""
        now = monotonic()
        if now - self._read_at > MAX_GAP_S:
            self._absent_s += now - self._read_at
        self._read_at = now
        return now - self._absent_s


running_time = RunningTime()
