"""One job's audio as one HTTP response.

It starts with the first encoded audio: whatever fails before that is an error with a status, as
from any route. What fails later ends the response without its terminating chunk, so that no
client can take a part for the whole. A client that leaves, at whatever moment, ends the job.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.audio.encoder import Encoder
from app.errors import ServiceError
from app.master.stream import JobStream

log = logging.getLogger(__name__)

TELL_FAILURE_S = 1.0
"""A client that reads nothing for so long after its job has failed is not waited for."""


class SpeechResponse(Response):
    """Reads `stream`, encodes it in `threads` (if that is real work) and sends it.

    `whole`: the complete file with its length, in place of a stream. `on_end` is called once the
    job's stream was closed.
    """

    def __init__(
        self,
        stream: JobStream,
        encoder: Encoder,
        threads: Executor,
        headers: dict[str, str],
        *,
        whole: bool,
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._stream = stream
        self._encoder = encoder
        self._threads = threads
        self._whole = whole
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answering = asyncio.create_task(self._answer(send))
        leaving = asyncio.create_task(_disconnect(receive))
        failing = asyncio.create_task(self._stream.failed())
        tasks = {answering, leaving, failing}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if failing.done():  # it is told by `answering`, unless that waits for the client
                await asyncio.wait({answering}, timeout=TELL_FAILURE_S)
            if answering.done():
                answering.result()
        finally:
            self._stream.close()
            self._on_end()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _answer(self, send: Send) -> None:
        if self._whole:
            await self._send_file(send)
        else:
            await self._send_stream(send)

    async def _send_file(self, send: Send) -> None:
        pieces = [piece async for piece in self._encoded()]
        body = self._encoder.as_file(b"".join(pieces))
        self.headers["Content-Length"] = str(len(body))
        await self._send_start(send)
        await send({"type": "http.response.body", "body": body})

    async def _send_stream(self, send: Send) -> None:
        started = False
        try:
            async for piece in self._encoded():
                if not started:
                    await self._send_start(send)
                    started = True
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except ServiceError as error:
            if not started:
                raise
            log.warning("response aborted: %s", error.message)
            return  # without a last message: the server closes the connection
        if not started:  # nothing was said, and there is no header to say so
            await self._send_start(send)
        await send({"type": "http.response.body", "body": b""})

    async def _send_start(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

    async def _encoded(self) -> AsyncIterator[bytes]:
        """The file's bytes as they come, never empty pieces."""
        while (pcm := await self._stream.read()) is not None:
            if piece := await self._run(self._encoder.encode, pcm):
                yield piece
        if piece := await self._run(self._encoder.finish):
            yield piece

    async def _run(self, work: Callable[..., bytes], *args: bytes) -> bytes:
        if not self._encoder.blocking:
            return work(*args)
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
