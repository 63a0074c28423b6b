"""A load-test client: one connection that requests speech and records when its audio arrives.

Called by `bench.load`. Playout times assume a player that starts with the first piece, at once.
"""

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any
from urllib.parse import SplitResult

import httptools
import numpy as np

from app.audio.encoder import wav_header
from app.core.audio import BYTES_PER_SAMPLE, SAMPLE_RATE

HEADER_BYTES = {"raw_pcm": 0, "wav": len(wav_header(SAMPLE_RATE, None))}
"""Bytes before the samples, by format; of other formats only the first byte is timed."""

AUDIBLE = int(32768 * 10 ** (-50 / 20))
"""−50 dBFS, of int16."""

READ_AHEAD_S = 2.0
"""A paced client with more unplayed audio than that pauses reading."""

READ_BYTES = 65_536
REQUEST_TIMEOUT_S = 120.0


@dataclass
class Playout:
    """Plays audio as it arrives.

    `lateness_s` has how late each piece came for a player that never stops, `gaps_s` the length of
    each underrun. Audio in time is played at `due_s`; without more of it, the player stops at
    `end_s`.
    """

    samples: int = 0
    lateness_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    due_s: float = 0.0
    end_s: float = 0.0

    def play(self, at_s: float, samples: int) -> float:
        """Play audio that arrived at `at_s`; return when it begins."""
        if not self.samples:
            self.due_s = self.end_s = at_s
        self.lateness_s.append(max(0.0, at_s - self.due_s))
        begin_s = max(at_s, self.end_s)
        if begin_s > self.end_s:
            self.gaps_s.append(begin_s - self.end_s)
        self.samples += samples
        self.due_s += samples / SAMPLE_RATE
        self.end_s = begin_s + samples / SAMPLE_RATE
        return begin_s


def first_audible_sample(pcm: bytes) -> int | None:
    """Return the index of the first sample above −50 dBFS; `pcm`: int16 little-endian [n]."""
    samples = np.frombuffer(pcm, "<i2").astype(np.int32)
    loud = np.flatnonzero(np.abs(samples) > AUDIBLE)
    return int(loud[0]) if len(loud) else None


@dataclass
class ClientResult:
    """The result of one request; times in seconds since it was sent.

    `outcome`: a status with the error's code (`200`, `429 queue_full`), or a broken connection.
    `message`: the error's message.
    """

    outcome: str = ""
    message: str = ""
    first_byte_s: float | None = None
    first_audible_s: float | None = None
    total_s: float = 0.0
    playout: Playout = field(default_factory=Playout)

    @property
    def succeeded(self) -> bool:
        return self.outcome == "200"

    @property
    def audio_s(self) -> float:
        return self.playout.samples / SAMPLE_RATE


class SpeechClient:
    """Makes one request after the other; with `paced`, each is played to its end before the next.

    The parser is in C, since the client shares the CPU with the service.
    """

    def __init__(self, url: SplitResult, form: str, *, paced: bool) -> None:
        self._url = url
        self._header_bytes = HEADER_BYTES.get(form)
        self._paced = paced
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, request: bytes) -> ClientResult:
        """Send `request` and read its response; raises nothing but `CancelledError`."""
        response = _Response(self._header_bytes)
        result = response.result
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                reader, writer = await self._connect()
                response.began = perf_counter()
                writer.write(request)
                await self._read(reader, response)
        except (OSError, TimeoutError) as fault:
            result.outcome = type(fault).__name__
        if not response.keeps_connection:
            self.close()
        result.total_s = perf_counter() - response.began
        if self._paced and result.playout.samples:
            await asyncio.sleep(result.playout.end_s - result.total_s)
        return result

    def close(self) -> None:
        if self._connection:
            self._connection[1].transport.abort()
            self._connection = None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._connection and (self._connection[0].at_eof() or self._connection[1].is_closing()):
            self.close()
        if not self._connection:
            secure = self._url.scheme == "https"
            port = self._url.port or (443 if secure else 80)
            self._connection = await asyncio.open_connection(
                self._url.hostname, port, ssl=secure or None, limit=READ_BYTES // 4
            )
        return self._connection

    async def _read(self, reader: asyncio.StreamReader, response: "_Response") -> None:
        result = response.result
        try:
            while not result.outcome:
                if not (data := await reader.read(READ_BYTES)):
                    raise ConnectionResetError
                response.parser.feed_data(data)
                if self._paced and not result.outcome:
                    ahead_s = result.playout.due_s - (perf_counter() - response.began)
                    await asyncio.sleep(ahead_s - READ_AHEAD_S)
        except ConnectionError:
            result.outcome = "cut off" if response.status else "no answer"
        except httptools.HttpParserError:
            result.outcome = "no HTTP"


class _Response:
    """Turns what the parser calls into a `ClientResult`; its `outcome` is set at the end."""

    def __init__(self, header_bytes: int | None) -> None:
        self.result = ClientResult()
        self.parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.keeps_connection = False
        self.began = perf_counter()
        self._header_bytes = header_bytes
        self._body = bytearray()

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if self.status != 200:
            self._body += body
            return
        now_s = perf_counter() - self.began
        if self.result.first_byte_s is None:
            self.result.first_byte_s = now_s
        if self._header_bytes is not None:
            self._body += body
            self._take_samples(now_s, self._header_bytes)

    def on_message_complete(self) -> None:
        self.keeps_connection = self.parser.should_keep_alive()
        if self.status == 200:
            self.result.outcome = "200"
        else:
            self.result.outcome, self.result.message = parse_error(self.status, bytes(self._body))

    def _take_samples(self, now_s: float, header_bytes: int) -> None:
        """Move all complete samples out of the buffer."""
        complete = len(self._body) // BYTES_PER_SAMPLE * BYTES_PER_SAMPLE
        pcm = bytes(self._body[header_bytes:complete])
        if not pcm:
            return
        self._header_bytes = 0
        del self._body[:complete]
        result = self.result
        begin_s = result.playout.play(now_s, len(pcm) // BYTES_PER_SAMPLE)
        if result.first_audible_s is None and (sample := first_audible_sample(pcm)) is not None:
            result.first_audible_s = begin_s + sample / SAMPLE_RATE


def parse_error(status: int, body: bytes) -> tuple[str, str]:
    """Return e.g. `429 queue_full` and the message; without the service's error shape, `429`."""
    parsed: Any = None
    with suppress(ValueError):
        parsed = json.loads(body)
    match parsed:
        case {"error": {"code": str(code), "message": str(message)}}:
            return f"{status} {code}", message
    return str(status), ""
