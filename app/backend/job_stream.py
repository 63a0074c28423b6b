"""The stream of one job: the backend puts PCM in, the speech service reads it.

It ends once, complete or with an error. An error is raised before buffered audio, which is
discarded. Its size is bounded by the worker's credit. Until the reader commits, the job may be
given to another worker, which begins it again.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection

from app.core.audio import BYTES_PER_SAMPLE, SAMPLE_RATE
from app.core.errors import EmptyText, ServiceError
from app.core.running_time import running_time

SILENCE = bytes(SAMPLE_RATE // 5 * BYTES_PER_SAMPLE)
"""The 0.2 s that are spoken where there is nothing to say."""


class Restarted(Exception):
    """Discard all audio read, since another worker begins the job again."""


def _noop(*args: object) -> None:
    pass


def silence() -> "JobStream":
    """Return a complete stream of `SILENCE`."""
    stream = JobStream()
    stream.put(SILENCE)
    stream.end()
    return stream


class JobStream:
    """The audio of one job, for a single reader. The backend sets `on_consumed` and `on_close`.

    `on_failed` is called when the job ends with an `error`, also while the reader awaits something
    else. With `silence_if_empty`, `SILENCE` takes the place of `EmptyText`. `file`: what the reader
    has encoded and not yet sent, which counts as unread. `queued_s`: how long the job waited for a
    worker.
    """

    def __init__(self) -> None:
        self.on_consumed: Callable[[], None] = _noop
        self.on_close: Callable[[ServiceError | None], None] = _noop
        self.on_failed: Callable[[], None] = _noop
        self.error: ServiceError | None = None
        self.committed = False
        self.ended = False
        self.consumed_samples = 0
        self.queued_s = 0.0
        self.silence_if_empty = False
        self.file: Collection[bytes] = ()
        self._chunks: deque[bytes] = deque()
        self._restarted = False
        self._reader: asyncio.Future[None] | None = None
        self._read_to_end = False
        self._taken_samples = 0  # when there was last progress
        self._progress_at = running_time()

    # --- backend --------------------------------------------------------------------------------

    def put(self, pcm: bytes) -> None:
        self._chunks.append(pcm)
        self._wake()

    def end(self, error: ServiceError | None = None) -> None:
        """End the stream; later calls have no effect."""
        if self.ended:
            return
        if self.silence_if_empty and isinstance(error, EmptyText) and not self._any_audio:
            self.put(SILENCE)
            error = None
        self.ended = True
        self.error = error
        self._wake()
        if error:
            self.on_failed()

    def abandon(self, error: ServiceError) -> None:
        """Discard what has not been read of a complete stream; reading raises `error`."""
        self._chunks.clear()
        self.error = error
        self.on_failed()

    def restart(self) -> None:
        """Discard all audio: another worker begins the job again. Not after `commit`."""
        self._chunks.clear()
        self.consumed_samples = self._taken_samples = 0
        self._restarted = True
        self._wake()

    def stalled_s(self, now: float, least_samples: int) -> float:
        """Seconds of `running_time` in which the reader read neither all nor `least_samples`.

        The accuracy is the time between two calls.
        """
        unread = self._chunks or (self.ended and not self.error and not self._read_to_end)
        if not unread or self.consumed_samples - self._taken_samples >= least_samples:
            self._taken_samples, self._progress_at = self.consumed_samples, now
        return now - self._progress_at

    @property
    def _any_audio(self) -> bool:
        return bool(self._chunks or self.consumed_samples)

    @property
    def unread_bytes(self) -> int:
        """Of audio, and of the file that a reader has made of it and not yet sent."""
        return sum(map(len, self._chunks)) + sum(map(len, self.file))

    # --- reader ---------------------------------------------------------------------------------

    async def read(self) -> bytes | None:
        """The next PCM (int16 little-endian, mono, 24 kHz); None at the complete end.

        Raises the job's `ServiceError`, or `Restarted`.
        """
        while not (self._chunks or self.ended or self._restarted):
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        self._raise_if_over()
        if not self._chunks:
            self._read_to_end = True
            return None
        pcm = self._chunks.popleft()
        self.consumed_samples += len(pcm) // BYTES_PER_SAMPLE
        self.on_consumed()
        return pcm

    def commit(self) -> None:
        """Rule out a restart, before the first byte is sent. Raises what `read` would."""
        self._raise_if_over()
        self.committed = True

    def close(self, failure: ServiceError | None = None) -> None:
        """End reading: a running job is cancelled, or counted as failed with `failure`."""
        on_close = self.on_close
        self.on_consumed = self.on_close = self.on_failed = _noop  # they refer to this stream
        on_close(failure)
        self._chunks.clear()
        if self.error:
            self.error.with_traceback(None)  # it refers to the reader's frames

    def _wake(self) -> None:
        if self._reader and not self._reader.done():
            self._reader.set_result(None)

    def _raise_if_over(self) -> None:
        if self.error:
            raise self.error
        if self._restarted:
            self._restarted = False
            raise Restarted
