"""uvicorn's HTTP/1.1 protocol with limits on bytes and time for each phase of a connection.

uvicorn alone waits without limit for the rest of a request's headers, buffers all of them and all
requests that follow, goes on receiving the body of a request that was answered long ago, and waits
for clients that do not read. The limits of a body that a route reads are in `http.request_body`.

An `Upgrade` to anything but a WebSocket is ignored, as RFC 9110 (7.8) allows: `curl --http2` and
Java's HttpClient send `Upgrade: h2c` with their first request, and uvicorn would lose its body.
"""

import asyncio
import logging
from typing import Any, ClassVar, Literal

import httptools
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.core.errors import (
    HeadersTooLong,
    InvalidRequest,
    RequestTooSlow,
    ServiceError,
    TooManyConnections,
)
from app.http.error_handlers import ErrorResponse
from app.server.connection_limit import ConnectionLimit
from app.server.response_cycle import ResponseCycle
from app.server.watched_transport import WatchedTransport

log = logging.getLogger(__name__)

httptools_impl.RequestResponseCycle = ResponseCycle  # type: ignore[misc]  # there is no option


class DeadlineHttpProtocol(HttpToolsProtocol):
    """One connection."""

    header_timeout_s = 10.0
    """Also limits an idle new connection, and the rest of a body after its response."""
    max_header_bytes = 65_536
    """Of URL and headers, or of trailers."""
    max_extension_bytes = 1_048_576
    """Of a chunk. They are dropped as they come."""
    max_headers = 100
    max_query_fields = 1024
    max_path_escapes = 1024
    max_pipelined = 8
    """Requests that wait for earlier responses; later ones are ignored, and the connection closed,
    so that the client sends them again (RFC 9112, 9.3.2)."""
    max_unread_body_bytes = 67_108_864
    """Of a body whose response is complete."""
    write_timeout_s = 60.0
    """Time in which a client must take `least_taken_bytes`, or all that there is."""
    least_taken_bytes = 16_384
    client_stall_s = 600.0
    """The same for a client with the key, which may have paused playback."""
    write_check_s = 5.0
    limit = ConnectionLimit(4096, 0)
    idle: ClassVar[dict["DeadlineHttpProtocol", None]] = {}
    """Connections that wait for a request, the longest first; if there is no room, it is closed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.url = b""
        self._receiving: Literal["nothing", "headers", "body"] = "nothing"
        self._allowance = 0  # bytes that may come before the request's next part
        self._unread_body_bytes = 0
        self._ignoring = False  # too many requests were pipelined
        self._deadline: asyncio.TimerHandle | None = None
        self._write_check: asyncio.TimerHandle | None = None
        self._replay_head = b""  # of a request with an `Upgrade`, without that header
        self._answered: Any = None  # the cycle of the response in progress; `cycle` is the newest

    # --- called by the transport ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._watched = WatchedTransport(transport)
        super().connection_made(self._watched)  # type: ignore[arg-type]
        self._address = self.client[0] if self.client else "-"
        try:
            if self.limit.full and self.idle:
                next(iter(self.idle)).close_idle()
            self.limit.acquire(self._address)
        except TooManyConnections as error:
            self._refuse(error)
            return
        self.idle[self] = None
        self._set_deadline()
        self._check_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_limits()
        if self._responding:
            self._answered.disconnected = True
            self._answered.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._ignoring or (self._receiving == "nothing" and not data.strip(b"\r\n")):
            return  # blank lines may precede a request; they do not extend the deadline
        self.idle.pop(self, None)
        self._allowance -= len(data)
        self._unset_keepalive_if_required()
        error: ServiceError | None = None
        try:
            self._parse(data)
        except httptools.HttpParserError as failure:  # also raised for a URL that is too long
            if not self._ignoring:
                error = self._error_of(failure)
        if self._receiving != "nothing" and self._allowance < 0:
            error = self._too_long()
        if self._receiving == "body" and not self._responding:
            self._unread_body_bytes += len(data)
        if error:
            self._refuse(error)
        elif self._unread_body_bytes > self.max_unread_body_bytes:
            self.transport.close()

    # --- called by the parser and by uvicorn's response cycle -----------------------------------

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= self.max_pipelined:
            self._ignoring, self.cycle.keep_alive = True, False
            raise ValueError("too many pipelined requests")  # stops the parser
        super().on_message_begin()
        self._receiving, self._allowance = "headers", self.max_header_bytes
        self._unread_body_bytes = 0
        if not self._deadline:
            self._set_deadline()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._receiving != "headers":
            return  # trailers of a chunked body are dropped
        if len(self.headers) >= self.max_headers:
            raise HeadersTooLong(f"A request has at most {self.max_headers} headers.")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        upgrade = self.parser.should_upgrade()
        if upgrade and not self._should_upgrade() and (head := self._head_without_upgrade()):
            self._replay_head = head
            return
        if not self._is_unambiguous():
            raise ValueError("ambiguous request")  # the parser raises HttpParserCallbackError
        path, _, query = self.url.partition(b"?")
        if path.count(b"%") > self.max_path_escapes:
            raise InvalidRequest(
                f"A path has at most {self.max_path_escapes} percent-encoded bytes."
            )
        if query.count(b"&") >= self.max_query_fields:
            raise InvalidRequest(f"A query has at most {self.max_query_fields} parameters.")
        super().on_headers_complete()
        if not self._responding:
            self._answered = self.cycle
        self._receiving, self._allowance = "body", self.max_extension_bytes
        self._clear_deadline()

    def on_chunk_header(self) -> None:
        self._allowance = self.max_header_bytes  # trailers follow the last one

    def on_body(self, body: bytes) -> None:
        self._allowance = self.max_extension_bytes
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._replay_head:
            return
        self._receiving = "nothing"
        self._clear_deadline()
        super().on_message_complete()
        if not self._responding:  # this body has stopped uvicorn's keep-alive timer
            self._set_deadline()

    def on_response_complete(self) -> None:
        if self.pipeline:
            self._answered, _ = self.pipeline[-1]
        elif self._receiving == "nothing":
            self.idle[self] = None
        super().on_response_complete()
        if self.pipeline and not self._ignoring:  # unread bytes at the end would reset it
            self.flow.pause_reading()
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
                    self._end_limits()
                    self.transport = self._watched.transport
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
        return self._answered is not None and not self._answered.response_complete

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

    def _check_writing(self) -> None:
        """Abort the connection if its client has taken too little for too long."""
        if self._answered is not None and self._answered.scope["state"].get("has_key"):
            # The backend ends a stalled job first, and so names the reason.
            limit_s = self.client_stall_s + self.write_check_s
        else:
            limit_s = self.write_timeout_s
        if self._watched.stalled_s(self.least_taken_bytes) > limit_s:
            log.info("connection from %s aborted: the client took too little", self._address)
            self.transport.abort()
            return
        self._write_check = self.loop.call_later(self.write_check_s, self._check_writing)

    def close_idle(self) -> None:
        """Make room for a connection that may have something to say."""
        self._end_limits()
        self.transport.close()

    def _end_limits(self) -> None:
        self.idle.pop(self, None)
        self._clear_deadline()
        if self._write_check:  # not of a connection that was one too many
            self._write_check.cancel()
            self._write_check = None
            self.limit.release(self._address)

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

    # --- errors ---------------------------------------------------------------------------------

    def _error_of(self, failure: httptools.HttpParserError) -> ServiceError:
        """Return what a callback raised, or else what the parser's own error means."""
        if isinstance(failure.__context__, ServiceError):
            return failure.__context__
        if len(self.url) >= self.max_header_bytes:
            return self._too_long()
        return InvalidRequest(
            "This is no valid HTTP request. In a URL, what is not ASCII must be percent-encoded, "
            "and a long text belongs into the body of a POST."
        )

    def _too_long(self) -> ServiceError:
        return HeadersTooLong(
            f"URL and headers have at most {self.max_header_bytes} bytes: a long text belongs into "
            "the body of a POST."
        )

    def _refuse(self, error: ServiceError) -> None:
        log.info("connection from %s closed: %s", self._address, error.message)
        if not self._responding and self._receiving != "body":
            response = ErrorResponse(error)
            response.headers["Connection"] = "close"
            headers = b"".join(b"%b: %b\r\n" % header for header in response.raw_headers)
            self.transport.write(STATUS_LINE[error.status] + headers + b"\r\n" + response.body)
        self.transport.close()
