"""The stream of one job: PCM put in by the dispatcher, taken out by the speech route.

It ends once, complete or with an error; an error overtakes the audio that was not taken yet, so
that a client learns of it at once. Its size is bounded by the credit its worker has.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic

from app.errors import ServiceError
from app.messages import BYTES_PER_SAMPLE


class JobStream:
    """Single reader. `on_taken(samples in all)` and `on_close()` are set by the dispatcher."""

    def __init__(self) -> None:
        self.on_taken: Callable[[int], None] = lambda samples: None
        self.on_close: Callable[[], None] = lambda: None
        self.started = False
        self.ended = False
        self._chunks: deque[bytes] = deque()
        self._error: ServiceError | None = None
        self._changed = asyncio.Event()
        self._failed = asyncio.Event()
        self._taken = 0
        self._last_taken_at = monotonic()

    # --- dispatcher -----------------------------------------------------------------------------

    def put(self, pcm: bytes) -> None:
        if not self._chunks:
            self._last_taken_at = monotonic()
        self._chunks.append(pcm)
        self._changed.set()

    def end(self, error: ServiceError | None = None) -> None:
        """Only the first call counts."""
        if self.ended:
            return
        self.ended = True
        self._error = error
        self._changed.set()
        if error:
            self._failed.set()

    def restart(self) -> None:
        """Forget what nobody has taken: another worker begins anew."""
        self._chunks.clear()

    def untaken_s(self, now: float) -> float:
        """For how long audio has been lying here without being taken."""
        return now - self._last_taken_at if self._chunks else 0.0

    # --- speech route ---------------------------------------------------------------------------

    async def read(self) -> bytes | None:
        """The next PCM (int16 mono), or None at the complete end. Raises the job's error."""
        while not (self._chunks or self.ended):
            self._changed.clear()
            await self._changed.wait()
        if self._error:
            raise self._error
        if not self._chunks:
            return None
        pcm = self._chunks.popleft()
        self.started = True
        self._last_taken_at = monotonic()
        self._taken += len(pcm) // BYTES_PER_SAMPLE
        self.on_taken(self._taken)
        return pcm

    async def failed(self) -> None:
        """Returns when the job has ended with an error."""
        await self._failed.wait()

    def close(self) -> None:
        """The reader is done; a job that goes on is cancelled."""
        self.on_close()
