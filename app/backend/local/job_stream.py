"""The stream of one job: PCM put in by the dispatcher, taken out by the speech route.

It ends once, complete or with an error; an error overtakes the audio that was not taken yet, so
that a client learns of it at once. Its size is bounded by the credit its worker has.

Until the reader says `start`, the job may be given to another worker, and all begins anew.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic

from app.core.audio import BYTES_PER_SAMPLE
from app.core.errors import ServiceError


class Restarted(Exception):
    """All that was read is void: another worker says everything from the beginning."""


def _nothing(*details: object) -> None:
    pass


class JobStream:
    """Single reader, who sets `on_failed()`: called when the job ends with an `error`.

    `on_taken()` and `on_close(what the reader failed with)` are set by the dispatcher.
    """

    def __init__(self) -> None:
        self.on_taken: Callable[[], None] = _nothing
        self.on_close: Callable[[ServiceError | None], None] = _nothing
        self.on_failed: Callable[[], None] = _nothing
        self.error: ServiceError | None = None
        self.started = False
        self.ended = False
        self.taken = 0  # samples in all
        self._chunks: deque[bytes] = deque()
        self._restarted = False
        self._waiting: asyncio.Future[None] | None = None  # the reader
        self._last_taken_at = monotonic()

    # --- dispatcher -----------------------------------------------------------------------------

    def put(self, pcm: bytes) -> None:
        if not self._chunks:
            self._last_taken_at = monotonic()
        self._chunks.append(pcm)
        self._wake()

    def end(self, error: ServiceError | None = None) -> None:
        """Only the first call counts."""
        if self.ended:
            return
        self.ended = True
        self.error = error
        self._wake()
        if error:
            self.on_failed()

    def restart(self) -> None:
        """Forget everything: another worker begins anew. Not of a stream that has `started`."""
        self._chunks.clear()
        self.taken = 0
        self._restarted = True
        self._wake()

    def untaken_s(self, now: float) -> float:
        """For how long audio has been lying here without being taken."""
        return now - self._last_taken_at if self._chunks else 0.0

    # --- speech route ---------------------------------------------------------------------------

    async def read(self) -> bytes | None:
        """The next PCM (int16 mono), or None at the complete end.

        Raises the job's error, or `Restarted`.
        """
        while not (self._chunks or self.ended or self._restarted):
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        self._check()
        if not self._chunks:
            return None
        pcm = self._chunks.popleft()
        self._last_taken_at = monotonic()
        self.taken += len(pcm) // BYTES_PER_SAMPLE
        self.on_taken()
        return pcm

    def start(self) -> None:
        """The client is about to be sent what was read: from now on there is no restart.

        Raises, in place of that, what `read` would.
        """
        self._check()
        self.started = True

    def close(self, failure: ServiceError | None = None) -> None:
        """The reader is done; a job that goes on is cancelled, or has failed if the reader has.

        Only the first call counts.
        """
        on_close = self.on_close
        self.on_taken = self.on_close = self.on_failed = _nothing  # which refer to this stream
        on_close(failure)
        self._chunks.clear()
        if self.error:
            self.error.with_traceback(None)  # which refers to all that the reader had

    def _wake(self) -> None:
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(None)

    def _check(self) -> None:
        if self.error:
            raise self.error
        if self._restarted:
            self._restarted = False
            raise Restarted
