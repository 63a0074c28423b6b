"""HTTP/1.1 as uvicorn speaks it, but not for ever with clients that never come to the point.

uvicorn alone waits without limit for the rest of a request's headers, keeps whatever comes of
them, and goes on taking the body of a request that was answered long ago. The time for a body
that a route reads is `api.body`'s business.

Nor is there anything to upgrade to: a client that offers it (`curl --http2` and Java's HttpClient
do, with each first request) is answered as if it had not, where uvicorn would lose the body.
"""

import asyncio
import logging
from typing import Any, Literal

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.core.errors import HeadersTooLong, InvalidRequest, RequestTooSlow, ServiceError
from app.http.error_handlers import error_response

log = logging.getLogger(__name__)


class BoundedProtocol(HttpToolsProtocol):
    """One connection, on which headers, and what an answered request still sends, have limits."""

    patience_s = 10.0
    most_header_bytes = 65_536
    """More are refused, unless they came all at once (a read of a socket has a limit too)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._incoming: Literal["nothing", "headers", "body"] = "nothing"
        self._header_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._head_again = b""  # of a request that offers an upgrade, without the offer

    # --- called by the transport ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._incoming == "nothing" and not data.strip(b"\r\n"):
            return  # blank lines may precede a request, but are none: no timer stops for them
        if self._incoming == "headers":
            self._header_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
            invalid = False
        except httptools.HttpParserError:  # of a URL that is too long, too
            invalid = True
        headers_too_long = (
            self._incoming == "headers" and self._header_bytes > self.most_header_bytes
        )
        url_too_long = invalid and len(self.url or b"") >= self.most_header_bytes
        if headers_too_long or url_too_long:
            self._refuse(
                HeadersTooLong(
                    f"URL and headers have at most {self.most_header_bytes} bytes: a long text "
                    "belongs into the body of a POST."
                )
            )
        elif invalid:  # told in the one error shape, with what people run into
            self._refuse(
                InvalidRequest(
                    "This is no valid HTTP request. In a URL, what is not ASCII must be "
                    "percent-encoded, and a long text belongs into the body of a POST."
                )
            )

    # --- called by the parser, and when a response has been sent --------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._incoming, self._header_bytes = "headers", 0
        if not self._deadline:
            self._set_deadline()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._incoming == "headers":  # nobody reads what a chunked body may be followed by
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and (head := self._head_without_offer()):
            self._head_again = head  # of which the parser will now say that it is complete
            return
        if not self._is_plain():
            raise ValueError("of more than one meaning")  # to the parser: it stops, and says 400
        self._incoming = "body"
        self._clear_deadline()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self._head_again:
            return
        self._incoming = "nothing"
        self._clear_deadline()
        super().on_message_complete()
        if not self._answering:  # uvicorn's timer between requests was stopped by this one's body
            self._set_deadline()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._incoming == "body":
            self._set_deadline()

    # --- offers of another protocol -------------------------------------------------------------

    def _parse(self, data: bytes) -> None:
        """A parser has done its work when it meets an offer, and has skipped the body.

        What it said of the request is void; another one gets the head without the offer.
        """
        rest = memoryview(data)
        while rest:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as offer:
                head, self._head_again = self._head_again, b""
                if not head:
                    return  # a CONNECT: what follows is meant for someone else
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
                self.parser.feed_data(head)
                rest = rest[offer.args[0] :]

    def _head_without_offer(self) -> bytes:
        """Request line and headers of the present request; nothing if there is no offer."""
        headers = [header for header in self.headers if header[0] != b"upgrade"]
        if len(headers) == len(self.headers) or self.parser.get_method() == b"CONNECT":
            return b""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        return b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, lines)

    # --- limits ---------------------------------------------------------------------------------

    def _set_deadline(self) -> None:
        self._clear_deadline()
        self._deadline = self.loop.call_later(self.patience_s, self._give_up)

    def _clear_deadline(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _give_up(self) -> None:
        if self._answering:  # what is late is the next request: its turn has not come
            self._set_deadline()
        elif self._incoming == "headers":
            self._refuse(RequestTooSlow(f"The headers did not come within {self.patience_s:g} s."))
        else:
            self.transport.close()

    def _is_plain(self) -> bool:
        """Whether no proxy can have read the request differently (RFC 9112, 3.2 and 6.1).

        The parser has seen to the rest: lengths that contradict each other or the chunks.
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
        if not self._answering:
            answer = error_response(error)
            answer.headers["Connection"] = "close"
            headers = b"".join(b"%b: %b\r\n" % header for header in answer.raw_headers)
            self.transport.write(STATUS_LINE[error.status] + headers + b"\r\n" + answer.body)
        self.transport.close()
