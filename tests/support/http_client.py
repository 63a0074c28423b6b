"""A client of few words: requests are bytes, so that a thousand of them cost a test little."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlencode

from tests.support.service import API_KEY, Service

BOUNDARY = "its-boundary"


@dataclass(frozen=True)
class Answer:
    """`status` is 0 if nothing came; `complete`: with the end that its headers promise."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool


def speech(text: str, name: str = "", **values: object) -> bytes:
    """A request for raw PCM, unless `format` says otherwise; `name` is its id."""
    asked = {"text": text, "seed": 7, "format": "raw_pcm", "chunk_overlap_method": "zero"}
    return get(f"/tts/generate?{urlencode(asked | values)}", name)


def speech_in_json(text: str, name: str = "") -> bytes:
    body = json.dumps({"text": text}).encode()
    return _head("POST", "/tts/generate", name) + _body("application/json", body)


def get(path: str, name: str = "") -> bytes:
    return _head("GET", path, name) + b"\r\n"


def upload(content: bytes, voice_id: str, name: str = "", query: str = "") -> bytes:
    """A form with one file."""
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


async def ask(service: Service, request: bytes) -> Answer:
    """The whole answer to one request, on a connection of its own."""
    async with visitors(service, [request]) as [reader]:
        return await answer(reader)


async def answer(reader: asyncio.StreamReader) -> Answer:
    """What comes until the connection ends, however it does."""
    received = bytearray()
    try:
        while piece := await reader.read(1 << 20):
            received += piece
    except ConnectionResetError:
        pass
    return parsed(bytes(received))


@asynccontextmanager
async def visitors(
    service: Service, requests: Iterable[bytes]
) -> AsyncIterator[list[asyncio.StreamReader]]:
    """For each request a connection on which it was written; on exit all of them are closed."""
    writers: list[asyncio.StreamWriter] = []

    async def come(request: bytes) -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writers.append(writer)
        writer.write(request)
        return reader

    try:
        yield await asyncio.gather(*map(come, requests))
    finally:
        for writer in writers:
            writer.transport.abort()


def parsed(received: bytes) -> Answer:
    """What was received until the connection ended."""
    head, _, rest = received.partition(b"\r\n\r\n")
    if not head:
        return Answer(0, {}, b"", complete=False)
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body, complete = _dechunked(rest) if "transfer-encoding" in headers else (rest, True)
    if "content-length" in headers:
        complete = len(body) == int(headers["content-length"])
    return Answer(int(status.split()[1]), headers, body, complete)


def _dechunked(rest: bytes) -> tuple[bytes, bool]:
    """The body, and whether its last chunk was there."""
    body = bytearray()
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return bytes(body), True
        body += rest[:length]
        rest = rest[length + 2 :]
    return bytes(body), False
