"""A real server with short time-outs, over raw connections."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from time import monotonic
from typing import Any, ClassVar

import pytest
import pytest_asyncio
import uvicorn
from starlette.types import Receive, Scope, Send

from app.server.connection import DeadlineHttpProtocol
from app.server.connection_limit import ConnectionLimit
from app.server.sockets import listen
from tests.support.http_client import read_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEADER_TIMEOUT_S = 0.4
KEEP_ALIVE_S = 1
STEP_S = 0.1
WRITE_TIMEOUT_S = 0.5
LONG = 8_000_000  # more than the buffers of both sides
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
WEBSOCKET = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
TEN = b"Content-Length: 10\r\n\r\n" + b"x" * 10
CHUNKS = CHUNKED + b"\r\n4\r\nxxxx\r\n6\r\nxxxxxx\r\n0\r\n\r\n"
GZIP = b"Transfer-Encoding: gzip, chunked\r\n"
GET = b"GET /now HTTP/1.1\r\nHost: x\r\n\r\n"


class QuickProtocol(DeadlineHttpProtocol):
    header_timeout_s = HEADER_TIMEOUT_S
    write_timeout_s = WRITE_TIMEOUT_S
    write_check_s = 0.1
    client_stall_s = 3 * WRITE_TIMEOUT_S


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """`/now` responds at once, `/later` after all deadlines, `/read` with the length of the body,
    `/headers` with the number of headers, after the body. `/long` responds with `LONG` bytes, as
    to a request without the key, `/speech` as to one with it; `/unknown-length` in two pieces,
    `/broken` with the first of them only.
    """
    length = 0
    scope["state"]["has_key"] = scope["path"] == "/speech"
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
    body = bytes(LONG) if scope["path"] in ("/long", "/speech") else str(length).encode()
    headers = [(b"content-length", b"%d" % len(body))]
    if scope["path"] in ("/unknown-length", "/broken"):
        headers = []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if not headers:
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        body = b"whole"
    if scope["path"] != "/broken":
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
async def running_server(
    http: type[DeadlineHttpProtocol] = QuickProtocol, **options: Any
) -> AsyncIterator[tuple[str, int]]:
    """Run a server; yield its address."""
    listener = listen("127.0.0.1", 0, "PORT")
    config = uvicorn.Config(
        app,
        http=http,
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
async def connected(address: tuple[str, int], **options: Any) -> AsyncIterator[Connection]:
    connection = Connection(*await asyncio.open_connection(*address, **options))
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


def connection_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if line.startswith("connection from ")]


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


# --- clients that misuse the connection -----------------------------------------------------------


@pytest.mark.fault(64)
async def test_pipelined_requests_are_bounded(connection: Connection) -> None:
    connection.send(GET.replace(b"now", b"later") + GET * 5000)
    responses = await connection.rest()
    assert responses.count(b"HTTP/1.1 200 ") == 1 + QuickProtocol.max_pipelined
    assert responses.count(b"connection: close") == 1  # in the last one


@pytest.mark.fault(66)
@pytest.mark.parametrize("received", [b"", b"1\r\nx\r\n0\r\n"], ids=["extensions", "trailers"])
@pytest.mark.parametrize("path", [b"now", b"read"])
async def test_endless_part_of_a_chunked_body_ends_the_connection(
    connection: Connection, path: bytes, received: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Its deadline would be later."""
    caplog.set_level("INFO")
    connection.send(b"POST /%b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (path, CHUNKED))
    connection.send((received or b"1;") + (b"x: " if received else b""))
    began = monotonic()
    flooding = asyncio.create_task(flood(connection, b"x" * 131_072))
    with suppress(ConnectionResetError):
        await connection.rest()
    flooding.cancel()
    assert monotonic() - began < HEADER_TIMEOUT_S
    [line] = connection_lines(caplog)
    assert line.startswith("connection from 127.0.0.1 closed: URL and headers have at most ")


@pytest.mark.fault(65)
@pytest.mark.parametrize(
    ("path", "timeout_s"),
    [(b"long", WRITE_TIMEOUT_S), (b"speech", QuickProtocol.client_stall_s)],
)
async def test_client_that_reads_nothing_is_dropped(
    address: tuple[str, int], path: bytes, timeout_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    began = monotonic()
    with closing(socket.create_connection(address)) as client:
        client.sendall(GET.replace(b"now", path))
        while not connection_lines(caplog):
            async with connected(address) as other:
                other.send(GET)
                assert await other.read_body() == b"0"
            await asyncio.sleep(STEP_S / 10)
        assert timeout_s < monotonic() - began < timeout_s + 1
        [line] = connection_lines(caplog)
        assert line == "connection from 127.0.0.1 aborted: the client took too little"
        client.settimeout(5)
        with pytest.raises(ConnectionResetError):
            await asyncio.to_thread(read_bytes, client)


@pytest.mark.fault(65)
async def test_slow_client_that_reads_gets_everything(address: tuple[str, int]) -> None:
    async with connected(address, limit=65_536) as connection:
        connection.send(GET.replace(b"now", b"long"))
        await connection.read(LONG // 2)
        await asyncio.sleep(WRITE_TIMEOUT_S * 0.6)
        await connection.read(LONG // 4)
        await asyncio.sleep(WRITE_TIMEOUT_S * 0.6)
        connection.send(GET.replace(b"HTTP", b"close HTTP"))
        assert len(await connection.rest()) > LONG // 4


@pytest.mark.fault(68)
async def test_idle_connections_make_room_the_longest_idle_first() -> None:
    class Few(QuickProtocol):
        limit = ConnectionLimit(2, 0)
        idle: ClassVar[dict[Any, None]] = {}

    async with running_server(http=Few) as address, AsyncExitStack() as open_:
        first, second, third = [
            await open_.enter_async_context(connected(address)) for _ in range(3)
        ]
        assert await first.rest() == b""
        for each in (second, third):
            each.send(GET)
            assert await each.read_body() == b"0"


@pytest.mark.fault(68)
async def test_connections_have_a_limit_in_all_and_of_each_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Few(QuickProtocol):
        limit = ConnectionLimit(3, 2)

    caplog.set_level("INFO")
    async with running_server(http=Few) as address, AsyncExitStack() as open_:

        async def connect(source: str) -> Connection:
            local = (source, 0)
            return await open_.enter_async_context(connected(address, local_addr=local))

        first = await connect("127.0.0.1")
        first.send(b"GET")  # one that waits for a request would make room
        (await connect("127.0.0.1")).send(b"GET")
        await asyncio.sleep(STEP_S)
        third = await connect("127.0.0.1")
        assert refusal(await third.rest()) == (503, "too_many_connections")
        (await connect("127.0.0.2")).send(b"GET")
        await asyncio.sleep(STEP_S)
        fourth = await connect("127.0.0.3")
        assert refusal(await fourth.rest()) == (503, "too_many_connections")
        assert [line.partition(":")[0] for line in connection_lines(caplog)] == [
            "connection from 127.0.0.1 closed",
            "connection from 127.0.0.3 closed",
        ]
        first.close()
        await asyncio.sleep(STEP_S)
        again = await connect("127.0.0.1")
        again.send(GET)
        assert await again.read_body() == b"0"


@pytest.mark.fault(76)
@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (GET[:-2] + b"X: x\r\n" * 100 + b"\r\n", 431, "headers_too_long"),
        (GET.replace(b"now", b"now?" + b"a=1&" * 1024), 400, "invalid_request"),
        (GET.replace(b"now", b"%61" * 1025), 400, "invalid_request"),
    ],
    ids=["headers", "query", "path"],
)
async def test_many_small_parts_are_refused(
    connection: Connection, request_: bytes, status: int, code: str
) -> None:
    connection.send(request_)
    assert refusal(await connection.rest()) == (status, code)


@pytest.mark.fault(72)
@pytest.mark.parametrize(
    "request_",
    [
        b"GET /unknown-length HTTP/1.0\r\n\r\n",
        b"GET /unknown-length HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nTE: chunked\r\n\r\n",
        b"POST /unknown-length HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=["plain", "keep-alive", "POST"],
)
async def test_http_1_0_gets_no_chunks(connection: Connection, request_: bytes) -> None:
    connection.send(request_)
    head, _, body = (await connection.rest()).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert body == b"partwhole"


@pytest.mark.fault(72)
async def test_http_1_0_client_sees_that_a_body_is_incomplete(connection: Connection) -> None:
    connection.send(b"GET /broken HTTP/1.0\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        await connection.rest()
