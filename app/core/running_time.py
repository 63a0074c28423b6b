"""A clock that stands still while this process does not run.

A process may be suspended: by SIGSTOP, with its container or its machine. Afterwards its own
absence must not count as the silence of others, so limits on others are measured by this clock.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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

_CHECK_S = 1.0
_ACCURACY_S = 0.01


@asynccontextmanager
async def timeout(limit_s: float) -> AsyncIterator[None]:
    """As `asyncio.timeout`, but by `running_time`. Raises TimeoutError."""
    loop = asyncio.get_running_loop()
    ends_at = running_time() + limit_s

    checking: asyncio.Handle | None = None

    def check() -> None:
        nonlocal checking
        left_s = ends_at - running_time()
        if left_s <= _ACCURACY_S:
            limit.reschedule(loop.time())
        else:
            checking = loop.call_later(min(left_s, _CHECK_S), check)

    async with asyncio.timeout(None) as limit:
        check()
        try:
            yield
        finally:
            if checking:
                checking.cancel()
