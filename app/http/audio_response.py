"""A `SpeechStream` as an HTTP response.

Headers are sent with the first encoded audio; an earlier error becomes a normal error response.
A later error ends the response without the terminating chunk, so that no client can take a part
for the complete audio. A client that disconnects, at any moment, cancels the job.
"""

import asyncio
import logging
from contextlib import aclosing

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.core.audio import SAMPLE_RATE
from app.core.errors import PayloadTooLarge, ServiceError
from app.core.model import ModelInfo
from app.speech.stream import SpeechStream

log = logging.getLogger(__name__)

ABORT_FLUSH_S = 1.0
"""Time to flush already written data after a job fails mid-stream."""

MAX_IGNORED_BODY_BYTES = 65_536
"""Of a body that the route did not read; it arrives while the response is sent."""


def audio_headers(model: ModelInfo | None, notice: str | None) -> dict[str, str]:
    headers = {
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",
        "X-Sample-Rate": str(SAMPLE_RATE),
    }
    if model:
        headers["X-TTS-Model"] = model.name
    if notice:
        headers["X-TTS-Notice"] = notice
    return headers


class AudioResponse(Response):
    """`buffered`: send the complete file with its length, in place of a stream."""

    def __init__(self, stream: SpeechStream, *, buffered: bool) -> None:
        # As Starlette's StreamingResponse: without a body there is no Content-Length.
        self.status_code, self.background = 200, None
        self.init_headers(audio_headers(stream.model, stream.notice))
        self._stream = stream
        self._buffered = buffered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raise errors that come before the response has started, and unexpected exceptions."""
        try:
            await self._run_until_disconnect(receive, send)
            if self._stream.error:
                raise self._stream.error
        except ServiceError as error:
            self._stream.close(error)
            if not self._stream.committed:
                raise
            log.warning("%s: response aborted: %s", scope["state"]["request_id"], error.message)
            scope["state"]["error_code"] = error.code
        except ClientDisconnect:
            raise  # a running job is cancelled
        except Exception:
            self._stream.close(ServiceError("An internal error. The log has the details."))
            raise
        finally:
            self._stream.close()

    async def _run_until_disconnect(self, receive: Receive, send: Send) -> None:
        """Return early when the client disconnects or the job fails."""
        loop = asyncio.get_running_loop()

        async def until_disconnected() -> None:
            unread = 0
            while (message := await receive())["type"] != "http.disconnect":
                unread += len(message.get("body", b""))
                if unread > MAX_IGNORED_BODY_BYTES:
                    self._stream.close(PayloadTooLarge("A GET request has no body."))
                    break
            stop(0.0)

        def stop(delay_s: float) -> None:
            if limit.when() is None:  # the first reason counts
                limit.reschedule(loop.time() + delay_s)

        try:
            async with asyncio.timeout(None) as limit:
                disconnecting = asyncio.create_task(until_disconnected())
                self._stream.on_failed(
                    lambda: stop(ABORT_FLUSH_S if self._stream.committed else 0.0)
                )
                try:
                    await (self._send_file(send) if self._buffered else self._send_stream(send))
                finally:
                    disconnecting.cancel()
        except TimeoutError:
            if not limit.expired():
                raise

    async def _send_file(self, send: Send) -> None:
        file = await self._stream.read_all()
        await self._start(send, (b"content-length", b"%d" % sum(map(len, file))))
        while file:
            piece = file.popleft()
            await send({"type": "http.response.body", "body": piece, "more_body": bool(file)})

    async def _send_stream(self, send: Send) -> None:
        started = False
        async with aclosing(aiter(self._stream)) as pieces:
            async for piece in pieces:
                if not started:
                    await self._start(send)
                    started = True
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        if not started:
            await self._start(send)
        await send({"type": "http.response.body", "body": b""})

    async def _start(self, send: Send, *more: tuple[bytes, bytes]) -> None:
        content_type = (b"content-type", self._stream.media_type.encode())
        queued = (b"server-timing", b"queue;dur=%d" % (1000 * self._stream.queued_s))
        headers = [*self.raw_headers, content_type, queued, *more]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
