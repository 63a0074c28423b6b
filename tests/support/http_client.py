"""A raw HTTP client: requests are bytes, so that a test can send a thousand of them cheaply."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlencode

import httpx

from tests.support.engines import expected_pcm
from tests.support.service import API_KEY, Service

BOUNDARY = "its-boundary"


@dataclass(frozen=True)
class Response:
    """`status` is 0 if nothing came; `complete`: with the end that its headers promise."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool = True


# --- requests -------------------------------------------------------------------------------------


def speech_params(text: str, **values: object) -> dict[str, object]:
    """Return parameters of `/tts/generate` whose audio `engines.expected_pcm(text, 7)` is."""
    params = {"text": text, "seed": 7, "format": "raw_pcm", "chunk_overlap_method": "zero"}
    return params | values


def speech(text: str, name: str = "", **values: object) -> bytes:
    """Request speech; `name` is the request's id."""
    return get(f"/tts/generate?{urlencode(speech_params(text, **values))}", name)


def speech_in_json(text: str, name: str = "") -> bytes:
    body = json.dumps({"text": text}).encode()
    return _head("POST", "/tts/generate", name) + _body("application/json", body)


def get(path: str, name: str = "") -> bytes:
    return _head("GET", path, name) + b"\r\n"


def upload(content: bytes, voice_id: str, name: str = "", query: str = "") -> bytes:
    """Upload a form with one file."""
    body = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; '
        f'filename="{voice_id}"\r\n\r\n'.encode()
        + content
        + f"\r\n--{BOUNDARY}--\r\n".encode()
    )
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    return _head("POST", f"/voices{query}", name) + _body(kind, body)


def _head(method: str, path: str, name: str) -> bytes:
    return (
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-API-Key: {API_KEY}\r\n"
        f"X-Request-ID: {name}\r\n".encode()
    )


def _body(kind: str, body: bytes) -> bytes:
    return f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


# --- connections ----------------------------------------------------------------------------------


@asynccontextmanager
async def connections(
    service: Service, requests: Iterable[bytes]
) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Open a connection for each request and write it; abort all connections on exit."""
    writers: list[asyncio.StreamWriter] = []

    async def connect(request: bytes) -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writers.append(writer)
        writer.write(request)
        return reader

    try:
        yield await asyncio.gather(*map(connect, requests))
    finally:
        for writer in writers:
            writer.transport.abort()


async def fetch(service: Service, request: bytes) -> Response:
    """Send one request on a connection of its own, and read the response to its end."""
    async with connections(service, [request]) as [reader]:
        return await read_response(reader)


async def send(service: Service, request: bytes) -> None:
    """Send bytes and close the connection."""
    _, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(request)
    with suppress(ConnectionError):
        await writer.drain()
        writer.close()
        await writer.wait_closed()


async def check_speaks(service: Service) -> None:
    """Assert that the service completes a short request."""
    assert (await fetch(service, speech("audio3"))).body == expected_pcm("audio3", 7)


def slow_connection(service: Service, request: bytes) -> socket.socket:
    """Send a request on a connection with a small receive buffer."""
    connection = service.connect(receive_buffer=4096)
    connection.sendall(request)
    return connection


def read_bytes(connection: socket.socket) -> bytes:
    """Read until the connection ends; blocks."""
    received = bytearray()
    while data := connection.recv(1 << 20):
        received += data
    return bytes(received)


# --- responses ------------------------------------------------------------------------------------


def error_code(response: httpx.Response, status: int) -> str:
    """Return the error's code after checking the status."""
    assert response.status_code == status, response.text
    return response.json()["error"]["code"]


async def read_response(reader: asyncio.StreamReader) -> Response:
    """Read until the connection is closed or reset."""
    received = bytearray()
    with suppress(ConnectionResetError):
        while piece := await reader.read(1 << 20):
            received += piece
    return parse_response(bytes(received))


def parse_response(received: bytes) -> Response:
    """Parse all that was received on one connection."""
    head, _, rest = received.partition(b"\r\n\r\n")
    if not head:
        return Response(0, {}, b"", complete=False)
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body, complete = _decode_chunks(rest) if "transfer-encoding" in headers else (rest, True)
    if "content-length" in headers:
        complete = len(body) == int(headers["content-length"])
    return Response(int(status.split()[1]), headers, body, complete)


def _decode_chunks(rest: bytes) -> tuple[bytes, bool]:
    """Return the body, and whether the last chunk is there."""
    body = bytearray()
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return bytes(body), True
        body += rest[:length]
        rest = rest[length + 2 :]
    return bytes(body), False
