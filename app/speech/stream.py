"""Encode the audio of one job while it is synthesised, for any transport.

If the job is restarted by another worker before the first byte was sent, it is encoded from its
beginning again.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from contextlib import aclosing
from copy import copy
from functools import partial
from time import thread_time

from app.audio.encoder import Encoder
from app.backend.job_stream import JobStream, Restarted
from app.core.errors import ServiceError
from app.core.model import ModelInfo
from app.observability.metrics import Metrics

PIECE_BYTES = 1_048_576
"""Of a complete file. Blocks of this size are returned to the system when they have been sent."""


class SpeechStream:
    """Iterate it, or await `read_all`, once; then `close` it, in any case.

    The first piece is yielded only after `commit`. `notice` says which parameters `model` ignores.
    """

    def __init__(
        self,
        job: JobStream,
        new_encoder: Callable[[], Encoder],
        threads: Executor,
        metrics: Metrics,
        *,
        model: ModelInfo | None = None,
        notice: str | None = None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.model = model
        self.notice = notice
        self._job = job
        self._new_encoder = new_encoder
        self._encoder: Encoder | None = None
        self._threads = threads
        self._metrics = metrics
        self._on_close: Callable[[], None] | None = on_close

    @property
    def media_type(self) -> str:
        """Return the content type; not before the first piece."""
        if self._encoder is None:
            raise RuntimeError("nothing was read yet")
        return self._encoder.media_type

    @property
    def queued_s(self) -> float:
        """How long the job waited for a worker."""
        return self._job.queued_s

    @property
    def error(self) -> ServiceError | None:
        return self._job.error

    @property
    def committed(self) -> bool:
        return self._job.committed

    def on_failed(self, callback: Callable[[], None]) -> None:
        """Set a callback for the job's failure, called even while the reader awaits something."""
        self._job.on_failed = callback

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        """Yield the file in pieces, none empty.

        Raises `ServiceError`. If the job fails after `commit`, yields the encoder's abort message
        (if any), then raises.
        """
        while True:
            encoder = self._encoder = self._new_encoder()
            try:
                async with aclosing(self._encoded(encoder)) as pieces:
                    async for piece in pieces:
                        self.commit()
                        yield piece
                self.commit()  # without audio the file may be empty
                return
            except Restarted:
                continue
            except ServiceError as error:
                if self.committed and (tail := encoder.on_abort(error)):
                    yield tail
                raise

    async def read_all(self) -> deque[bytes]:
        """Return the complete file in pieces, with true sizes in its header."""
        while True:
            encoder = self._encoder = self._new_encoder()
            file, last = deque[bytes](), bytearray()
            self._job.file = file  # it counts as unread until it is sent
            try:
                async with aclosing(self._encoded(encoder)) as pieces:
                    async for piece in pieces:
                        last += piece
                        if len(last) >= PIECE_BYTES:
                            file.append(bytes(last))
                            last.clear()
                file.append(bytes(last))
                size = sum(map(len, file))
                file.appendleft(encoder.finalize_head(file.popleft(), size))
                self.commit()
                return file
            except Restarted:
                continue

    def commit(self) -> None:
        """Rule out a restart, before the first byte is sent. Raises what reading raises."""
        if not self.committed:
            self._job.commit()

    def close(self, failure: ServiceError | None = None) -> None:
        """Cancel the job if it runs; with `failure` it counts as failed. Later calls do nothing."""
        self._job.close(copy(failure) if failure else None)  # a copy refers to no frames
        self._encoder = None  # a raised error's frames keep this stream, which may hold megabytes
        if self._on_close:
            on_close, self._on_close = self._on_close, None
            on_close()

    async def _encoded(self, encoder: Encoder) -> AsyncGenerator[bytes, None]:
        async def run(work: Callable[..., bytes], *args: bytes) -> bytes:
            if not encoder.cpu_bound:
                return work(*args)
            timed = partial(self._timed, encoder.media_type, work, *args)
            return await asyncio.get_running_loop().run_in_executor(self._threads, timed)

        while (pcm := await self._job.read()) is not None:
            if piece := await run(encoder.encode, pcm):
                yield piece
        if piece := await run(encoder.finish):
            yield piece

    def _timed(self, media_type: str, work: Callable[..., bytes], *args: bytes) -> bytes:
        started = thread_time()
        try:
            return work(*args)
        finally:
            self._metrics.encoded(media_type, thread_time() - started)
