"""Malformed HTTP gets an error response or none, and never starts a job."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from random import Random

import httptools
import psutil
import pytest
from hypothesis import settings

from tests.support.engines import expected_pcm
from tests.support.service import API_KEY, Service

PATIENCE_S = 2  # the service waits 10 s for the rest of a request
AT_ONCE = 200
GARBLED = 2 * settings().max_examples

HOST = b"Host: x\r\n"
OTHERS = f"X-API-Key: {API_KEY}\r\nConnection: close\r\n".encode()
TARGET = b"/tts/generate?text=one"
BODY = b'{"text": "one"}'
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"f\r\n%b\r\n0\r\n\r\n" % BODY


def get(target: bytes = TARGET, *, version: bytes = b"HTTP/1.1", headers: bytes = HOST) -> bytes:
    return b"GET %b %b\r\n%b%b\r\n" % (target, version, headers, OTHERS)


def post(framing: bytes, body: bytes = BODY) -> bytes:
    """Return a request for speech; `framing` may contradict the length of `body`."""
    headers = HOST + b"Content-Type: application/json\r\n" + OTHERS + framing
    return b"POST /tts/generate HTTP/1.1\r\n%b\r\n%b" % (headers, body)


WELL_FORMED = {
    "get": get(),
    "post": post(b"Content-Length: 15\r\n"),
    "chunked": post(CHUNKED, CHUNKS),
    "absolute": get(b"http://x" + TARGET),
    "two spaces": get().replace(b"GET ", b"GET  "),
    "odd host": get(headers=b"Host: a/b@c:d\r\n"),
    "8 bits in value": get(headers=HOST + b"X: \xff\xfe\r\n"),
    "expect": post(b"Expect: 200-ok\r\nContent-Length: 15\r\n"),
    "h2c": get(headers=HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"),
    "websocket": get(headers=HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"),
    "chunk extension": post(CHUNKED, CHUNKS.replace(b"f", b"f;x=y", 1)),
    "chunk extension, long": post(CHUNKED, b"f;" + b"x" * 200_000 + CHUNKS[1:]),
}
"""Well-formed requests, some of them only barely."""

MALFORMED = {
    "only a method": b"GET",
    "0.9": b"GET " + TARGET + b"&api_key=" + API_KEY.encode() + b"\r\n",
    "no version": get(version=b""),
    "version 2": get(version=b"HTTP/2.0"),
    "version 9.9": get(version=b"HTTP/9.9"),
    "ICY": get(version=b"ICY/1.1"),
    "method, small": get().replace(b"GET", b"get"),
    "method, unknown": get().replace(b"GET", b"SPEAK"),
    "method, huge": get().replace(b"GET", b"G" * 70_000),
    "space before": b" " + get(),
    "tabs": get().replace(b" ", b"\t"),
    "NUL in target": get(TARGET + b"\0"),
    "8 bits in target": get(TARGET + b"\xff"),
    "LF in target": get(TARGET + b"\n"),
    "space in target": get(TARGET + b" x"),
    "no slash": get(b"tts/generate?text=one"),
    "authority": get(b"x:80"),
    "star": get(b"*"),
    "connect": get(b"x:80").replace(b"GET", b"CONNECT"),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(range(256)) * 2,
    "PROXY": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n" + get(),
    "blank lines": b"\r\n" * 1000,
    "LFs only": get().replace(b"\r\n", b"\n"),
    "CRs only": get().replace(b"\r\n", b"\r"),
    "no colon": get(headers=HOST + b"nonsense\r\n"),
    "space in name": get(headers=HOST + b"X Y: x\r\n"),
    "space after name": get(headers=b"Host : x\r\n"),
    "NUL in name": get(headers=HOST + b"X\0: x\r\n"),
    "NUL in value": get(headers=HOST + b"X: \0\r\n"),
    "CR in value": get(headers=HOST + b"X: a\rb\r\n"),
    "LF in value": get(headers=HOST + b"X: a\nb\r\n"),
    "folded": get(headers=HOST + b"X: a\r\n b\r\n"),
    "no host": get(headers=b""),
    "two hosts": get(headers=HOST + b"Host: y\r\n"),
    "many headers": get(headers=HOST + b"X: x\r\n" * 100_000),
    "long header": get(headers=HOST + b"X: " + b"x" * 600_000 + b"\r\n"),
    "two lengths": post(b"Content-Length: 15\r\nContent-Length: 16\r\n"),
    "two equal lengths": post(b"Content-Length: 15\r\nContent-Length: 15\r\n"),
    "length +": post(b"Content-Length: +15\r\n"),
    "length hex": post(b"Content-Length: 0xf\r\n"),
    "length with space": post(b"Content-Length: 1 5\r\n"),
    "length empty": post(b"Content-Length: \r\n"),
    "length 2**64": post(b"Content-Length: 18446744073709551631\r\n"),
    "length too great": post(b"Content-Length: 16\r\n"),
    "length too small": post(b"Content-Length: 5\r\n"),
    "no length": post(b""),
    "length and chunks": post(b"Content-Length: 15\r\n" + CHUNKED, CHUNKS),
    "chunks and length": post(CHUNKED + b"Content-Length: 4\r\n", CHUNKS),
    "chunked twice": post(CHUNKED * 2, CHUNKS),
    "chunked not last": post(b"Transfer-Encoding: chunked, identity\r\n", CHUNKS),
    "identity": post(b"Transfer-Encoding: identity\r\n", CHUNKS),
    "gzip, chunked": post(b"Transfer-Encoding: gzip, chunked\r\n", CHUNKS),
    "TE with space": post(b"Transfer-Encoding : chunked\r\n", CHUNKS),
    "TE in 1.0": post(CHUNKED, CHUNKS).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "chunk -": post(CHUNKED, b"-" + CHUNKS),
    "chunk empty": post(CHUNKED, CHUNKS[1:]),
    "chunk 2**64": post(CHUNKED, b"1000000000000000" + CHUNKS),
    "chunk too long": post(CHUNKED, CHUNKS.replace(b"f\r", b"ff\r", 1)),
    "chunk too short": post(CHUNKED, CHUNKS.replace(b"f\r", b"e\r", 1)),
    "chunk LF": post(CHUNKED, CHUNKS.replace(b"\r\n", b"\n")),
    "chunk extension, NUL": post(CHUNKED, CHUNKS.replace(b"f", b"f;\0", 1)),
    "chunks without end": post(CHUNKED, CHUNKS[:-2]),
    "trailer": post(CHUNKED, CHUNKS[:-2] + b"Content-Length: 5\r\nX-API-Key: x\r\n\r\n"),
    "trailer without colon": post(CHUNKED, CHUNKS[:-2] + b"nonsense\r\n\r\n"),
}

PLAIN = [WELL_FORMED[name] for name in ("get", "post", "chunked")]
REFUSALS = {400, 404, 408, 413, 431}
TWO_TOKENS = expected_pcm("one two", 7)


class Answers:
    """The responses on one connection, parsed strictly, until the service closes it or waits."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self._parser = httptools.HttpResponseParser(self)

    async def read(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(65_536):
            self._parser.feed_data(data)

    def on_headers_complete(self) -> None:
        self.statuses.append(self._parser.get_status_code())


async def ask(service: Service, data: bytes) -> list[int]:
    """Return the statuses of the responses."""
    answers = Answers()
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(data)
    # What the service had not read when it closed the connection may cost its response.
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(PATIENCE_S):
            await answers.read(reader)
    writer.close()
    return answers.statuses


def jobs_of(service: Service) -> int:
    return service.log().count(" sent to worker ")


@pytest.fixture(autouse=True)
def unharmed(service: Service) -> Iterator[None]:
    """Check that the service works after each test and has no more open files than before."""
    process = psutil.Process(service.process.pid)
    speak(service)
    files = process.num_fds()
    yield
    service.wait_until(lambda: process.num_fds() <= files)
    speak(service)
    assert service.status()["queue"]["running"] == 0


def speak(service: Service) -> None:
    with service.client() as client:
        params = {"text": "one two", "seed": 7, "format": "raw_pcm"}
        assert client.get("/tts/generate", params=params).content == TWO_TOKENS


async def test_unusual_but_well_formed_request_is_served(service: Service) -> None:
    for name, data in WELL_FORMED.items():
        assert await ask(service, data) == [200], name


async def test_malformed_request_is_refused_without_a_job(service: Service) -> None:
    before = jobs_of(service)
    statuses = await asyncio.gather(*(ask(service, data) for data in MALFORMED.values()))
    for name, received in zip(MALFORMED, statuses, strict=True):
        assert set(received) <= REFUSALS, name
    assert jobs_of(service) == before


async def test_garbled_request_causes_no_server_error(service: Service) -> None:
    few_at_once = asyncio.Semaphore(AT_ONCE)

    async def statuses(seed: int) -> list[int]:
        async with few_at_once:
            return await ask(service, garbled(Random(seed)))

    for status in await asyncio.gather(*map(statuses, range(GARBLED))):
        assert all(200 <= one < 500 for one in status), status


def garbled(random: Random) -> bytes:
    """One to three well-formed requests of which bytes are lost, changed, doubled or moved."""
    data = b"".join(random.choices(PLAIN, k=random.choice((1, 1, 3))))
    for _ in range(random.choice((1, 2, 10))):
        start = random.randrange(len(data))
        piece = data[start : start + random.choice((1, 2, 20))]
        place = random.randrange(len(data))
        rest = data[:start] + data[start + len(piece) :]
        match random.randrange(4):
            case 0:
                data = rest
            case 1:
                data = data[:start] + random.randbytes(len(piece)) + data[start + len(piece) :]
            case 2:
                data = data[:place] + piece + data[place:]
            case 3:
                data = rest[:place] + piece + rest[place:]
    return data
