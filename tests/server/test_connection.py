"""A real server with little patience, asked over bare connections."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from app.server.connection import DeadlineHttpProtocol

HEADER_TIMEOUT_S = 0.4
KEEP_ALIVE_S = 1
STEP_S = 0.1
GET = b"GET /now HTTP/1.1\r\nHost: x\r\n\r\n"


class QuickProtocol(DeadlineHttpProtocol):
    header_timeout_s = HEADER_TIMEOUT_S


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """`/now` answers at once, `/later` after all patience, `/read` with the length of the body,
    `/headers` with the number of headers, after the body.
    """
    length = 0
    match scope["path"]:
        case "/later":
            await asyncio.sleep(3 * HEADER_TIMEOUT_S)
        case "/read" | "/headers":
            more = True
            while more:
                message = await receive()
                length += len(message["body"])
                more = message["more_body"]
    if scope["path"] == "/headers":
        length = len(scope["headers"])
    body = str(length).encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Connection:
    """One end of a connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def trickle(self, pieces: Iterable[bytes]) -> None:
        """A piece at a time, until the server has had enough."""
        for piece in pieces:
            if self._reader.at_eof():
                return
            self.send(piece)
            await asyncio.sleep(STEP_S)

    async def answer(self) -> bytes:
        """One answer that says its length, without its headers."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        return await self._reader.readexactly(int(length))

    async def read(self, length: int) -> bytes:
        return await self._reader.readexactly(length)

    async def rest(self) -> bytes:
        """All until the server closes the connection."""
        async with asyncio.timeout(10):
            return await self._reader.read()

    def close(self) -> None:
        self._writer.close()


class EchoWebSocket(asyncio.Protocol):
    """Accepts every handshake, then echoes bytes."""

    def __init__(self, **_: Any) -> None:
        self._accepted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not self._accepted:
            self._accepted = True
            assert data.startswith(b"GET /socket HTTP/1.1\r\n")
            assert b"upgrade: websocket\r\n" in data
            data = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"  # for `Connection.answer`
        self._transport.write(data)


@asynccontextmanager
async def connected(**options: Any) -> AsyncIterator[Connection]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=QuickProtocol,
        lifespan="off",
        log_config=None,
        timeout_keep_alive=KEEP_ALIVE_S,
        **options,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    connection = Connection(*await asyncio.open_connection(*listener.getsockname()))
    yield connection
    connection.close()
    server.should_exit = True
    await serving


@pytest.fixture
async def connection() -> AsyncIterator[Connection]:
    async with connected() as connection:
        yield connection


def every_byte(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


def refusal(answer: bytes) -> tuple[int, str]:
    """The status and the code of an answer in the one error shape."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head
    return int(head.split()[1]), json.loads(body)["error"]["code"]


# --- headers --------------------------------------------------------------------------------------


async def test_headers_that_trickle_are_not_waited_for(connection: Connection) -> None:
    trickling = asyncio.create_task(connection.trickle(every_byte(GET)))
    began = monotonic()
    assert refusal(await connection.rest()) == (408, "request_too_slow")
    assert HEADER_TIMEOUT_S / 2 < monotonic() - began < len(GET) * STEP_S / 2
    await trickling


async def test_a_connection_on_which_nothing_comes_is_closed(connection: Connection) -> None:
    assert await connection.rest() == b""


async def test_each_request_of_a_connection_has_its_deadline(connection: Connection) -> None:
    for _ in range(3):
        connection.send(GET[:5])
        await asyncio.sleep(HEADER_TIMEOUT_S / 2)
        connection.send(GET[5:])
        assert await connection.answer() == b"0"
    trickling = asyncio.create_task(connection.trickle(every_byte(GET)))
    assert refusal(await connection.rest()) == (408, "request_too_slow")
    await trickling


async def test_blank_lines_keep_no_connection_open(connection: Connection) -> None:
    connection.send(b"\r\n\r\n" + GET)
    await connection.answer()
    trickling = asyncio.create_task(connection.trickle([b"\r\n"] * 100))
    assert await connection.rest() == b""
    await trickling


@pytest.mark.parametrize(
    "piece", [b"x" * 8192, b"X-Filler: x\r\n" * 600], ids=["one line", "many lines"]
)
async def test_headers_without_end_are_refused(connection: Connection, piece: bytes) -> None:
    connection.send(GET[:-2] + b"X: ")
    trickling = asyncio.create_task(flood(connection, piece))
    try:
        assert refusal(await connection.rest()) == (431, "headers_too_long")
    except ConnectionResetError:
        pass  # what was on its way when the server closed may cost the answer
    finally:
        trickling.cancel()


async def flood(connection: Connection, piece: bytes) -> None:
    for _ in range(12):
        connection.send(piece)
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "request_line",
    ["GET /now?text=Grüße HTTP/1.1", "\x16\x03\x01 hello"],
    ids=["not ASCII", "TLS"],
)
async def test_what_is_no_http_is_told_so_in_the_one_shape(
    connection: Connection, request_line: str
) -> None:
    connection.send(f"{request_line}\r\nHost: x\r\n\r\n".encode())
    assert refusal(await connection.rest()) == (400, "invalid_request")


@pytest.mark.parametrize("length", [65_600, 140_000])
async def test_a_url_that_is_too_long_is_told_so(connection: Connection, length: int) -> None:
    connection.send(f"GET /{'x' * length} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert refusal(await connection.rest()) == (431, "headers_too_long")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /now HTTP/1.1\r\n",
        b"GET /now HTTP/1.1\r\nHost: x\r\nHost: x\r\n",
        b"GET /now HTTP/2.0\r\nHost: x\r\n",
        b"POST /now HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n",
        b"POST /now HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n",
    ],
    ids=["no host", "two hosts", "version 2", "chunks in 1.0", "another coding"],
)
async def test_what_a_proxy_may_have_read_differently_is_refused(
    connection: Connection, head: bytes
) -> None:
    connection.send(head + b"\r\n")
    assert refusal(await connection.rest()) == (400, "invalid_request")


async def test_an_old_client_may_leave_out_the_host(connection: Connection) -> None:
    connection.send(b"GET /now HTTP/1.0\r\n\r\n")
    assert (await connection.rest()).startswith(b"HTTP/1.1 200 ")


async def test_headers_may_be_long(connection: Connection) -> None:
    connection.send(GET[:-2] + b"X-Long: " + b"x" * 60_000 + b"\r\n\r\n")
    assert await connection.answer() == b"0"


# --- offers of another protocol -------------------------------------------------------------------

OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
WEBSOCKET = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
TEN = b"Content-Length: 10\r\n\r\n" + b"x" * 10
CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n4\r\nxxxx\r\n6\r\nxxxxxx\r\n0\r\n\r\n"


@pytest.mark.parametrize("offer", [OFFER, OFFER.replace(b"h2c", b"websocket")])
@pytest.mark.parametrize(
    ("request_line", "rest", "length"),
    [
        (b"GET /now HTTP/1.1\r\n", b"\r\n", b"0"),
        (b"POST /read HTTP/1.1\r\n", TEN, b"10"),
        (b"POST /read HTTP/1.1\r\n", CHUNKS, b"10"),
    ],
    ids=["no body", "length", "chunks"],
)
async def test_who_offers_an_upgrade_is_answered_without_it(
    connection: Connection, request_line: bytes, rest: bytes, length: bytes, offer: bytes
) -> None:
    asked = request_line + b"Host: x\r\n" + offer + rest
    connection.send(asked)
    assert await connection.answer() == length
    connection.send(asked + asked)  # also of a connection in use, and one behind the other
    assert [await connection.answer() for _ in range(2)] == [length] * 2
    await connection.trickle([asked[:20], asked[20:-3], asked[-3:]])
    assert await connection.answer() == length
    connection.send(GET)
    assert await connection.answer() == b"0"


async def test_an_offer_changes_nothing_about_the_other_headers(connection: Connection) -> None:
    headers = b"Host: x\r\nX-One: 1\r\nX-One:\r\n"
    connection.send(b"GET /headers HTTP/1.1\r\n" + headers + OFFER + b"\r\n")
    assert await connection.answer() == b"5"


async def test_an_offer_of_a_client_that_will_close_is_declined_too(connection: Connection) -> None:
    offer = OFFER.replace(b"Upgrade,", b"close, Upgrade,")
    connection.send(b"POST /read HTTP/1.1\r\nHost: x\r\n" + offer + TEN)
    answer = await connection.rest()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\n10")


async def test_many_offers_at_once_are_declined_one_by_one(connection: Connection) -> None:
    many = 2000
    connection.send((b"GET /now HTTP/1.1\r\nHost: x\r\n" + OFFER + b"\r\n") * many)
    assert [await connection.answer() for _ in range(many)] == [b"0"] * many


async def test_an_offer_hides_no_request_that_is_refused_otherwise(connection: Connection) -> None:
    connection.send(b"GET /now HTTP/1.1\r\nHost: x\r\nHost: y\r\n" + OFFER + b"\r\n")
    assert refusal(await connection.rest()) == (400, "invalid_request")


async def test_a_connect_with_an_offer_is_answered_like_one_without(
    connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    connection.send(b"CONNECT /now HTTP/1.1\r\nHost: x\r\n" + OFFER + b"\r\n")
    assert await connection.answer() == b"0"
    assert "Fatal error" not in caplog.text


async def test_websocket_upgrade_reaches_its_handler_and_has_no_deadline() -> None:
    async with connected(ws=EchoWebSocket) as connection:
        connection.send(b"GET /socket HTTP/1.1\r\nHost: x\r\n" + WEBSOCKET + b"\r\n")
        assert await connection.answer() == b""
        await asyncio.sleep(1.5 * HEADER_TIMEOUT_S)
        connection.send(b"frame")
        assert await connection.read(5) == b"frame"


async def test_ambiguous_websocket_upgrade_is_refused() -> None:
    async with connected(ws=EchoWebSocket) as connection:
        connection.send(b"GET /socket HTTP/1.1\r\nHost: x\r\nHost: y\r\n" + WEBSOCKET + b"\r\n")
        assert refusal(await connection.rest()) == (400, "invalid_request")


async def test_other_upgrade_is_ignored_beside_websockets() -> None:
    async with connected(ws=EchoWebSocket) as connection:
        connection.send(b"POST /read HTTP/1.1\r\nHost: x\r\n" + OFFER + TEN)
        assert await connection.answer() == b"10"


# --- answers and bodies ---------------------------------------------------------------------------


async def test_an_answer_may_take_its_time(connection: Connection) -> None:
    connection.send(GET.replace(b"now", b"later"))
    assert await connection.answer() == b"0"


async def test_an_answer_is_not_cut_for_the_next_request(connection: Connection) -> None:
    connection.send(GET.replace(b"now", b"later") + GET[:5])
    assert await connection.answer() == b"0"


async def test_a_body_that_is_read_is_not_hurried_here(connection: Connection) -> None:
    connection.send(b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
    await connection.trickle([b"x"] * 10)
    assert await connection.answer() == b"10"


async def test_a_body_that_nobody_wants_any_more_is_not_taken_for_ever(
    connection: Connection,
) -> None:
    connection.send(b"POST /now HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
    trickling = asyncio.create_task(connection.trickle([b"x"] * 1000))
    assert await connection.answer() == b"0"
    try:
        assert await connection.rest() == b""
    except ConnectionResetError:
        pass
    finally:
        trickling.cancel()


async def test_what_follows_a_chunked_body_is_not_kept(connection: Connection) -> None:
    connection.send(b"POST /headers HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.send(b"1\r\nx\r\n0\r\n" + b"X-After: all\r\n" * 1000 + b"\r\n")
    assert await connection.answer() == b"2"


async def test_a_connection_whose_body_came_after_the_answer_is_closed_too(
    connection: Connection,
) -> None:
    connection.send(b"POST /now HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nx")
    assert await connection.answer() == b"0"
    connection.send(b"x")
    assert await connection.rest() == b""


async def test_an_old_deadline_does_not_outlive_its_reason(connection: Connection) -> None:
    connection.send(GET.replace(b"now", b"later"))
    connection.send(b"POST /now HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nx")
    assert await connection.answer() == b"0"
    assert await connection.answer() == b"0"
    connection.send(b"x" + GET)
    assert await connection.answer() == b"0"
    await asyncio.sleep(1.5 * HEADER_TIMEOUT_S)  # KEEP_ALIVE_S is longer
    connection.send(GET)
    assert await connection.answer() == b"0"
