"""A real server with short time-outs, over raw connections."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest
import pytest_asyncio
import uvicorn
from starlette.types import Receive, Scope, Send

from app.server.connection import DeadlineHttpProtocol

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEADER_TIMEOUT_S = 0.4
KEEP_ALIVE_S = 1
STEP_S = 0.1
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
WEBSOCKET = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
TEN = b"Content-Length: 10\r\n\r\n" + b"x" * 10
CHUNKS = CHUNKED + b"\r\n4\r\nxxxx\r\n6\r\nxxxxxx\r\n0\r\n\r\n"
GZIP = b"Transfer-Encoding: gzip, chunked\r\n"
GET = b"GET /now HTTP/1.1\r\nHost: x\r\n\r\n"


class QuickProtocol(DeadlineHttpProtocol):
    header_timeout_s = HEADER_TIMEOUT_S


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """`/now` responds at once, `/later` after all deadlines, `/read` with the length of the body,
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
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def trickle(self, pieces: Iterable[bytes]) -> None:
        """Send a piece per `STEP_S` until the server closes the connection."""
        for piece in pieces:
            if self._reader.at_eof():
                return
            self.send(piece)
            await asyncio.sleep(STEP_S)

    async def read_body(self) -> bytes:
        """Read one successful response; return its body."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        return await self._reader.readexactly(int(length))

    async def read(self, length: int) -> bytes:
        return await self._reader.readexactly(length)

    async def rest(self) -> bytes:
        """Read until the server closes the connection."""
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
            data = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"  # for `Connection.read_body`
        self._transport.write(data)


@asynccontextmanager
async def running_server(**options: Any) -> AsyncIterator[tuple[str, int]]:
    """Run a server; yield its address."""
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
    yield listener.getsockname()
    server.should_exit = True
    await serving


@asynccontextmanager
async def connected(address: tuple[str, int]) -> AsyncIterator[Connection]:
    connection = Connection(*await asyncio.open_connection(*address))
    yield connection
    connection.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def address() -> AsyncIterator[tuple[str, int]]:
    async with running_server() as address:
        yield address


@pytest_asyncio.fixture(loop_scope="module")
async def connection(address: tuple[str, int]) -> AsyncIterator[Connection]:
    async with connected(address) as connection:
        yield connection


def every_byte(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


def refusal(response: bytes) -> tuple[int, str]:
    """Return status and code of an error response."""
    head, _, body = response.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head
    return int(head.split()[1]), json.loads(body)["error"]["code"]


# --- headers --------------------------------------------------------------------------------------


async def test_silent_connection_is_closed(connection: Connection) -> None:
    assert await connection.rest() == b""


@pytest.mark.fault(29)
async def test_each_request_has_its_own_deadline(connection: Connection) -> None:
    for _ in range(3):
        connection.send(GET[:5])
        await asyncio.sleep(HEADER_TIMEOUT_S / 2)
        connection.send(GET[5:])
        assert await connection.read_body() == b"0"
    trickling = asyncio.create_task(connection.trickle(every_byte(GET)))
    began = monotonic()
    assert refusal(await connection.rest()) == (408, "request_too_slow")
    assert HEADER_TIMEOUT_S / 2 < monotonic() - began < len(GET) * STEP_S / 2
    await trickling


async def test_blank_lines_do_not_extend_the_deadline(connection: Connection) -> None:
    connection.send(b"\r\n\r\n" + GET)
    await connection.read_body()
    trickling = asyncio.create_task(connection.trickle([b"\r\n"] * 100))
    assert await connection.rest() == b""
    await trickling


@pytest.mark.parametrize(
    "piece", [b"x" * 8192, b"X-Filler: x\r\n" * 600], ids=["one line", "many lines"]
)
async def test_endless_headers_are_refused(connection: Connection, piece: bytes) -> None:
    connection.send(GET[:-2] + b"X: ")
    trickling = asyncio.create_task(flood(connection, piece))
    try:
        assert refusal(await connection.rest()) == (431, "headers_too_long")
    except ConnectionResetError:
        pass  # the kernel may drop the response if unread data was on its way
    finally:
        trickling.cancel()


async def flood(connection: Connection, piece: bytes) -> None:
    for _ in range(12):
        connection.send(piece)
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ("GET /now?text=Grüße HTTP/1.1\r\nHost: x\r\n".encode(), 400, "invalid_request"),
        (b"\x16\x03\x01 hello\r\nHost: x\r\n", 400, "invalid_request"),
        (b"GET /now HTTP/1.1\r\n", 400, "invalid_request"),
        (b"GET /now HTTP/1.1\r\nHost: x\r\nHost: x\r\n", 400, "invalid_request"),
        (b"GET /now HTTP/1.1\r\nHost: x\r\nHost: x\r\n" + UPGRADE, 400, "invalid_request"),
        (b"GET /now HTTP/2.0\r\nHost: x\r\n", 400, "invalid_request"),
        (b"POST /now HTTP/1.0\r\n" + CHUNKED, 400, "invalid_request"),
        (b"POST /now HTTP/1.1\r\nHost: x\r\n" + GZIP, 400, "invalid_request"),
        (b"GET /%b HTTP/1.1\r\nHost: x\r\n" % (b"x" * 65_600), 431, "headers_too_long"),
        (b"GET /%b HTTP/1.1\r\nHost: x\r\n" % (b"x" * 140_000), 431, "headers_too_long"),
    ],
    ids=[
        *("not ASCII", "TLS", "no host", "two hosts", "two hosts, upgrade", "version 2"),
        *("chunks in 1.0", "another coding", "long URL", "very long URL"),
    ],
)
async def test_invalid_requests_are_refused(
    connection: Connection, request_: bytes, status: int, code: str
) -> None:
    connection.send(request_ + b"\r\n")
    assert refusal(await connection.rest()) == (status, code)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /now HTTP/1.0\r\n\r\n",
        GET[:-2] + b"Connection: close\r\nX: %b\r\n\r\n" % (b"x" * 60_000),
    ],
    ids=["1.0 without host", "long headers"],
)
async def test_unusual_requests_are_accepted(connection: Connection, request_: bytes) -> None:
    connection.send(request_)
    assert (await connection.rest()).startswith(b"HTTP/1.1 200 ")


# --- upgrades -------------------------------------------------------------------------------------


@pytest.mark.parametrize("upgrade", [UPGRADE, UPGRADE.replace(b"h2c", b"websocket")])
@pytest.mark.parametrize(
    ("request_line", "rest", "length"),
    [
        (b"GET /now HTTP/1.1\r\n", b"\r\n", b"0"),
        (b"POST /read HTTP/1.1\r\n", TEN, b"10"),
        (b"POST /read HTTP/1.1\r\n", CHUNKS, b"10"),
    ],
    ids=["no body", "length", "chunks"],
)
async def test_upgrade_is_ignored_and_the_body_kept(
    connection: Connection, request_line: bytes, rest: bytes, length: bytes, upgrade: bytes
) -> None:
    request = request_line + b"Host: x\r\n" + upgrade + rest
    connection.send(request)
    assert await connection.read_body() == length
    connection.send(request + request)  # pipelined
    assert [await connection.read_body() for _ in range(2)] == [length] * 2
    await connection.trickle([request[:20], request[20:-3], request[-3:]])
    assert await connection.read_body() == length
    connection.send(GET)
    assert await connection.read_body() == b"0"


async def test_upgrade_leaves_other_headers_unchanged_and_close_is_obeyed(
    connection: Connection,
) -> None:
    headers = b"Host: x\r\nX-One: 1\r\nX-One:\r\n"
    connection.send(b"GET /headers HTTP/1.1\r\n" + headers + UPGRADE + b"\r\n")
    assert await connection.read_body() == b"5"
    upgrade = UPGRADE.replace(b"Upgrade,", b"close, Upgrade,")
    connection.send(b"POST /read HTTP/1.1\r\nHost: x\r\n" + upgrade + TEN)
    response = await connection.rest()
    assert response.startswith(b"HTTP/1.1 200 ")
    assert response.endswith(b"\r\n\r\n10")


async def test_connect_with_upgrade_gets_a_response(
    connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    connection.send(b"CONNECT /now HTTP/1.1\r\nHost: x\r\n" + UPGRADE + b"\r\n")
    assert await connection.read_body() == b"0"
    assert "Fatal error" not in caplog.text


async def test_only_websocket_upgrade_reaches_its_handler_and_has_no_deadline() -> None:
    async with running_server(ws=EchoWebSocket) as address, connected(address) as connection:
        connection.send(b"POST /read HTTP/1.1\r\nHost: x\r\n" + UPGRADE + TEN)
        assert await connection.read_body() == b"10"
        connection.send(b"GET /socket HTTP/1.1\r\nHost: x\r\n" + WEBSOCKET + b"\r\n")
        assert await connection.read_body() == b""
        await asyncio.sleep(1.5 * HEADER_TIMEOUT_S)
        connection.send(b"frame")
        assert await connection.read(5) == b"frame"


# --- responses and bodies -------------------------------------------------------------------------


async def test_late_pipelined_request_does_not_cut_the_response(connection: Connection) -> None:
    connection.send(GET.replace(b"now", b"later") + GET[:5])
    assert await connection.read_body() == b"0"


async def test_body_that_the_app_reads_has_no_deadline(connection: Connection) -> None:
    connection.send(b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
    await connection.trickle([b"x"] * 10)
    assert await connection.read_body() == b"10"


async def test_unread_body_after_the_response_has_a_deadline(
    connection: Connection,
) -> None:
    connection.send(b"POST /now HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
    trickling = asyncio.create_task(connection.trickle([b"x"] * 1000))
    assert await connection.read_body() == b"0"
    try:
        assert await connection.rest() == b""
    except ConnectionResetError:
        pass
    finally:
        trickling.cancel()


async def test_trailers_are_dropped(connection: Connection) -> None:
    connection.send(b"POST /headers HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.send(b"1\r\nx\r\n0\r\n" + b"X-After: all\r\n" * 1000 + b"\r\n")
    assert await connection.read_body() == b"2"


async def test_connection_is_closed_after_a_body_that_ended_late(
    connection: Connection,
) -> None:
    connection.send(b"POST /now HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nx")
    assert await connection.read_body() == b"0"
    connection.send(b"x")
    assert await connection.rest() == b""


async def test_deadline_is_cleared_when_the_body_ends(connection: Connection) -> None:
    connection.send(GET.replace(b"now", b"later"))
    connection.send(b"POST /now HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nx")
    assert await connection.read_body() == b"0"
    assert await connection.read_body() == b"0"
    connection.send(b"x" + GET)
    assert await connection.read_body() == b"0"
    await asyncio.sleep(1.5 * HEADER_TIMEOUT_S)  # KEEP_ALIVE_S is longer
    connection.send(GET)
    assert await connection.read_body() == b"0"
