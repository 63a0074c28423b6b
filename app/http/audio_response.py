"""One job's audio as one HTTP response.

It starts with the first encoded audio: whatever fails before that is an error with a status, as
from any route, and a worker that dies before that is replaced by another, unnoticed. What fails
later ends the response without its terminating chunk, so that no client can take a part for the
whole. A client that leaves, at whatever moment, ends the job.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from contextlib import aclosing
from copy import copy
from functools import partial
from time import thread_time

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.audio.encoder import Encoder
from app.backend.local.job_stream import JobStream, Restarted
from app.core.errors import ServiceError
from app.observability.metrics import Metrics

log = logging.getLogger(__name__)

TELL_FAILURE_S = 1.0
"""A client that reads nothing for so long after its job has failed amid audio is not waited for."""


class SpeechResponse(Response):
    """Reads `stream`, encodes it in `threads` (if that is real work) and sends it.

    `new_encoder`: called for each attempt at the job. `whole`: the complete file with its length,
    in place of a stream. `on_end` is called once the job's stream was closed.
    """

    def __init__(
        self,
        stream: JobStream,
        new_encoder: Callable[[], Encoder],
        threads: Executor,
        headers: dict[str, str],
        metrics: Metrics,
        *,
        whole: bool,
        on_end: Callable[[], None],
    ) -> None:
        # As in Starlette's own stream: without a body, nothing claims to know its length.
        self.status_code, self.background = 200, None
        self.init_headers(headers)
        self._stream = stream
        self._new_encoder = new_encoder
        self._threads = threads
        self._metrics = metrics
        self._send_audio = self._send_file if whole else self._send_stream
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises what the answer fails with before it has started, and any bug."""
        try:
            await self._answer_while_wanted(receive, send)
            if self._stream.error:
                raise self._stream.error
        except ServiceError as error:
            self._stream.close(copy(error))  # which does not refer to the encoder
            if not self._stream.started:
                raise
            log.warning("%s: response aborted: %s", scope["state"]["request_id"], error.message)
            scope["state"]["error_code"] = error.code
        except Exception:
            self._stream.close(ServiceError("An internal error. The log has the details."))
            raise
        finally:
            self._stream.close()
            self._on_end()

    async def _answer_while_wanted(self, receive: Receive, send: Send) -> None:
        """Returns early when the client leaves, or the job fails, whatever the answer waits for."""
        loop = asyncio.get_running_loop()

        async def until_left() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            stop(0.0)

        def stop(delay_s: float) -> None:
            if limit.when() is None:  # of two reasons, the first counts
                limit.reschedule(loop.time() + delay_s)

        try:
            async with asyncio.timeout(None) as limit:
                leaving = asyncio.create_task(until_left())
                self._stream.on_failed = lambda: stop(
                    TELL_FAILURE_S if self._stream.started else 0.0
                )
                try:
                    await self._answer(send)
                finally:
                    leaving.cancel()
        except TimeoutError:
            if not limit.expired():
                raise

    async def _answer(self, send: Send) -> None:
        """Begins anew as often as the job does."""
        while True:
            try:
                await self._send_audio(self._new_encoder(), send)
                return
            except Restarted:
                continue

    async def _send_file(self, encoder: Encoder, send: Send) -> None:
        async with aclosing(self._encoded(encoder)) as encoded:
            pieces = [piece async for piece in encoded]
        body = encoder.finalize_file(b"".join(pieces))
        await self._start(encoder, send, (b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.body", "body": body})

    async def _send_stream(self, encoder: Encoder, send: Send) -> None:
        try:
            async with aclosing(self._encoded(encoder)) as encoded:
                async for piece in encoded:
                    if not self._stream.started:
                        await self._start(encoder, send)
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        except ServiceError as error:
            if self._stream.started and (last_words := encoder.on_abort(error)):
                await send({"type": "http.response.body", "body": last_words, "more_body": True})
            raise  # without a last message: the server closes the connection
        if not self._stream.started:  # nothing was said, and there is no header to say so
            await self._start(encoder, send)
        await send({"type": "http.response.body", "body": b""})

    async def _start(self, encoder: Encoder, send: Send, *more: tuple[bytes, bytes]) -> None:
        """The point of no return; raises what `JobStream.start` does."""
        self._stream.start()
        headers = [*self.raw_headers, (b"content-type", encoder.media_type.encode()), *more]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _encoded(self, encoder: Encoder) -> AsyncGenerator[bytes, None]:
        """The file's bytes as they come, never empty pieces."""

        async def run(work: Callable[..., bytes], *args: bytes) -> bytes:
            if not encoder.cpu_bound:
                return work(*args)
            timed = partial(self._timed, encoder.media_type, work, *args)
            return await asyncio.get_running_loop().run_in_executor(self._threads, timed)

        while (pcm := await self._stream.read()) is not None:
            if piece := await run(encoder.encode, pcm):
                yield piece
        if piece := await run(encoder.finish):
            yield piece

    def _timed(self, media_type: str, work: Callable[..., bytes], *args: bytes) -> bytes:
        began = thread_time()
        try:
            return work(*args)
        finally:
            self._metrics.encoded(media_type, thread_time() - began)
