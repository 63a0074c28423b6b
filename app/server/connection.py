"""uvicorn's HTTP/1.1 protocol with deadlines for headers and for bodies that no route reads.

uvicorn alone waits without limit for the rest of a request's headers, buffers all of them, and goes
on receiving the body of a request that was answered long ago. The deadline of a body that a route
reads is in `http.request_body`.

An `Upgrade` to anything but a WebSocket is ignored, as RFC 9110 (7.8) allows: `curl --http2` and
Java's HttpClient send `Upgrade: h2c` with their first request, and uvicorn would lose its body.
"""

import asyncio
import logging
from typing import Any, Literal

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.core.errors import HeadersTooLong, InvalidRequest, RequestTooSlow, ServiceError
from app.http.error_handlers import ErrorResponse

log = logging.getLogger(__name__)


class DeadlineHttpProtocol(HttpToolsProtocol):
    """One connection."""

    header_timeout_s = 10.0
    """Also limits an idle new connection, and the rest of a body after its response."""
    max_header_bytes = 65_536
    """Not checked if all headers arrive in one read, which is bounded as well."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._receiving: Literal["nothing", "headers", "body"] = "nothing"
        self._header_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._replay_head = b""  # of a request with an `Upgrade`, without that header

    # --- called by the transport ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._receiving == "nothing" and not data.strip(b"\r\n"):
            return  # blank lines may precede a request; they do not extend the deadline
        if self._receiving == "headers":
            self._header_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
            invalid = False
        except httptools.HttpParserError:  # also raised for a URL that is too long
            invalid = True
        headers_too_long = (
            self._receiving == "headers" and self._header_bytes > self.max_header_bytes
        )
        url_too_long = invalid and len(self.url or b"") >= self.max_header_bytes
        if headers_too_long or url_too_long:
            self._refuse(
                HeadersTooLong(
                    f"URL and headers have at most {self.max_header_bytes} bytes: a long text "
                    "belongs into the body of a POST."
                )
            )
        elif invalid:
            self._refuse(
                InvalidRequest(
                    "This is no valid HTTP request. In a URL, what is not ASCII must be "
                    "percent-encoded, and a long text belongs into the body of a POST."
                )
            )

    # --- called by the parser and by uvicorn's response cycle -----------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._receiving, self._header_bytes = "headers", 0
        if not self._deadline:
            self._set_deadline()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._receiving == "headers":  # trailers of a chunked body are dropped
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        upgrade = self.parser.should_upgrade()
        if upgrade and not self._should_upgrade() and (head := self._head_without_upgrade()):
            self._replay_head = head
            return
        if not self._is_unambiguous():
            raise ValueError("ambiguous request")  # the parser raises HttpParserCallbackError
        self._receiving = "body"
        self._clear_deadline()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self._replay_head:
            return
        self._receiving = "nothing"
        self._clear_deadline()
        super().on_message_complete()
        if not self._responding:  # this body has stopped uvicorn's keep-alive timer
            self._set_deadline()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._receiving == "body":
            self._set_deadline()

    # --- upgrades -------------------------------------------------------------------------------

    def _parse(self, data: bytes) -> None:
        """Feed the parser; replace it after an `Upgrade`, where it stops and skips the body.

        The new one gets the head without the `Upgrade`, then the rest of `data`.
        """
        rest = memoryview(data)
        while rest:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if self._should_upgrade():
                    self._clear_deadline()
                    self.handle_websocket_upgrade()
                    return
                head, self._replay_head = self._replay_head, b""
                if not head:
                    return  # after a CONNECT, bytes are for another server
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
                self.parser.feed_data(head)
                rest = rest[upgrade.args[0] :]

    def _head_without_upgrade(self) -> bytes:
        """Return request line and headers; empty for CONNECT and without an `Upgrade` header."""
        headers = [header for header in self.headers if header[0] != b"upgrade"]
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if len(headers) == len(self.headers) or method == b"CONNECT":
            return b""
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        return b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, lines)

    # --- limits ---------------------------------------------------------------------------------

    def _set_deadline(self) -> None:
        self._clear_deadline()
        self._deadline = self.loop.call_later(self.header_timeout_s, self._on_deadline)

    def _clear_deadline(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    @property
    def _responding(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _on_deadline(self) -> None:
        if self._responding:
            # the timeout concerns a pipelined request, which waits for this response anyway
            self._set_deadline()
        elif self._receiving == "headers":
            self._refuse(
                RequestTooSlow(f"The headers did not come within {self.header_timeout_s:g} s.")
            )
        else:
            self.transport.close()

    def _is_unambiguous(self) -> bool:
        """Return whether all proxies read the request alike (RFC 9112, 3.2 and 6.1).

        The parser itself refuses contradictory lengths and malformed chunks.
        """
        version = self.parser.get_http_version()
        hosts = [value for name, value in self.headers if name == b"host"]
        codings = [value for name, value in self.headers if name == b"transfer-encoding"]
        if version == "1.0":
            return len(hosts) <= 1 and not codings
        return (
            version == "1.1"
            and len(hosts) == 1
            and b",".join(codings).strip(b" \t").lower() in (b"", b"chunked")
        )

    def _refuse(self, error: ServiceError) -> None:
        log.info("connection closed: %s", error.message)
        if not self._responding:
            response = ErrorResponse(error)
            response.headers["Connection"] = "close"
            headers = b"".join(b"%b: %b\r\n" % header for header in response.raw_headers)
            self.transport.write(STATUS_LINE[error.status] + headers + b"\r\n" + response.body)
        self.transport.close()
