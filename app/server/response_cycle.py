"""uvicorn's response cycle with limits on what waits to be sent, and without chunks for HTTP/1.0.

A long body is sent in pieces, each after the client has taken most of those before it.
"""

from typing import Any

from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.server.watched_transport import WatchedTransport

PIECE_BYTES = 32_768


class ResponseCycle(RequestResponseCycle):
    """The response to one request."""

    transport: WatchedTransport  # type: ignore[assignment]
    _ends_with_connection = False

    async def send(self, message: Any) -> None:
        body = message.get("body", b"")
        if len(body) <= PIECE_BYTES and self.scope["http_version"] != "1.0":
            await super().send(message)
            return
        if message["type"] == "http.response.start":
            self._avoid_chunks(message)
        last = max(len(body) - 1, 0) // PIECE_BYTES * PIECE_BYTES
        for start in range(0, last, PIECE_BYTES):
            piece = body[start : start + PIECE_BYTES]
            await self._send({**message, "body": piece, "more_body": True})
            if self.disconnected:
                raise ClientDisconnect  # so that the response does not count as complete
        await self._send({**message, "body": body[last:]})

    async def _send(self, message: Any) -> None:
        if self._ends_with_connection and message["type"] == "http.response.body":
            self.expected_content_length = len(message["body"])  # which uvicorn checks
            if not message.get("more_body"):
                self.transport.reset_at_close(False)
        await super().send(message)

    def _avoid_chunks(self, start: Any) -> None:
        """Let the end of the connection end a body without a length (RFC 9112, 6.1 and 6.3).

        Until the body is complete, the connection ends with a reset, so that no client takes a part
        for the whole.
        """
        has_length = any(name.lower() == b"content-length" for name, _ in start["headers"])
        if not has_length and self.scope["method"] != "HEAD" and start["status"] not in (204, 304):
            self.chunked_encoding = False
            self._ends_with_connection = True
            self.transport.reset_at_close(True)
