"""A load-test client: one connection that requests speech and records when its audio arrives.

Called by `bench.load`. Playout times assume a player that starts with the first piece, at once.
"""

import asyncio
import json
import ssl
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple
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

REQUEST_TIMEOUT_S = 120.0


class Piece(NamedTuple):
    """Some audio, and when it arrived."""

    at_s: float
    samples: int


def lateness_s(pieces: Sequence[Piece]) -> list[float]:
    """Return how late each piece came for a player that never stops."""
    due_s, late = pieces[0].at_s if pieces else 0.0, []
    for at_s, samples in pieces:
        late.append(max(0.0, at_s - due_s))
        due_s += samples / SAMPLE_RATE
    return late


def playout(pieces: Sequence[Piece]) -> Iterator[tuple[float, float]]:
    """Yield for each piece when it is played, and the length of the gap before it."""
    free_s = pieces[0].at_s if pieces else 0.0
    for at_s, samples in pieces:
        begin_s = max(at_s, free_s)
        yield begin_s, begin_s - free_s
        free_s = begin_s + samples / SAMPLE_RATE


def underruns_s(pieces: Sequence[Piece]) -> list[float]:
    """Return the length of each gap in the playout."""
    return [gap_s for _, gap_s in playout(pieces) if gap_s > 0]


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
    pieces: list[Piece] = field(default_factory=list)

    @property
    def succeeded(self) -> bool:
        return self.outcome == "200"

    @property
    def audio_s(self) -> float:
        return sum(piece.samples for piece in self.pieces) / SAMPLE_RATE


class SpeechClient(asyncio.Protocol):
    """Makes one request after the other; with `paced`, each is played to its end before the next.

    The parser is in C, since the client shares the CPU with the service.
    """

    def __init__(self, url: SplitResult, form: str, *, paced: bool) -> None:
        self._url = url
        self._form = form
        self._paced = paced
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._resuming: asyncio.TimerHandle | None = None
        self._outcome: asyncio.Future[str] | None = None

    async def request(self, request: bytes) -> ClientResult:
        """Send `request` and read its response; raises nothing but `CancelledError`."""
        result = self._result = ClientResult()
        self._status, self._body, self._samples = 0, bytearray(), 0
        self._header_bytes = HEADER_BYTES.get(self._form)
        self._audible: tuple[int, int] | None = None
        self._outcome = self._loop.create_future()
        self._began_at = self._loop.time()
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                transport = self._transport or await self._connect()
                self._began_at = self._loop.time()
                transport.write(request)
                result.outcome = await self._outcome
        except (OSError, TimeoutError) as fault:
            result.outcome = type(fault).__name__
            self.close()
        result.total_s = self._now()
        begins = list(playout(result.pieces))
        if self._audible:
            piece, sample = self._audible
            result.first_audible_s = begins[piece][0] + sample / SAMPLE_RATE
        if self._paced and begins:
            end_s = begins[-1][0] + result.pieces[-1].samples / SAMPLE_RATE
            await asyncio.sleep(end_s - self._now())
        return result

    def close(self) -> None:
        if self._transport:
            self._transport.abort()
            self._transport = None

    async def _connect(self) -> asyncio.Transport:
        secure = self._url.scheme == "https"
        port = self._url.port or (443 if secure else 80)
        tls = ssl.create_default_context() if secure else None
        host = self._url.hostname or ""
        await self._loop.create_connection(lambda: self, host, port, ssl=tls)
        if self._transport is None:
            raise ConnectionResetError
        return self._transport

    def _now(self) -> float:
        return self._loop.time() - self._began_at

    # --- called by the transport ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._end("no HTTP")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._end("cut off" if self._status else "no answer")

    def _end(self, outcome: str) -> None:
        self._resume_reading()
        if self._outcome and not self._outcome.done():
            self._outcome.set_result(outcome)

    # --- called by the parser -------------------------------------------------------------------

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if self._status != 200:
            self._body += body
            return
        now_s = self._now()
        if self._result.first_byte_s is None:
            self._result.first_byte_s = now_s
        if self._header_bytes is not None:
            self._body += body
            self._take_samples(now_s)

    def on_message_complete(self) -> None:
        if self._transport and not self._parser.should_keep_alive():
            self.close()
        if self._status == 200:
            self._end("200")
        else:
            outcome, self._result.message = parse_error(self._status, bytes(self._body))
            self._end(outcome)

    def _take_samples(self, now_s: float) -> None:
        """Move all complete samples out of the buffer."""
        complete = len(self._body) // BYTES_PER_SAMPLE * BYTES_PER_SAMPLE
        pcm = bytes(self._body[self._header_bytes or 0 : complete])
        if not pcm:
            return
        self._header_bytes = 0
        del self._body[:complete]
        pieces = self._result.pieces
        if self._audible is None and (found := first_audible_sample(pcm)) is not None:
            self._audible = (len(pieces), found)
        pieces.append(Piece(now_s, len(pcm) // BYTES_PER_SAMPLE))
        self._samples += len(pcm) // BYTES_PER_SAMPLE
        if self._paced:
            self._limit_read_ahead(pieces[0].at_s + self._samples / SAMPLE_RATE - now_s)

    def _limit_read_ahead(self, ahead_s: float) -> None:
        if ahead_s > READ_AHEAD_S and self._transport and not self._resuming:
            self._transport.pause_reading()
            self._resuming = self._loop.call_later(ahead_s - READ_AHEAD_S, self._resume_reading)

    def _resume_reading(self) -> None:
        if self._resuming:
            self._resuming.cancel()
            self._resuming = None
            if self._transport:
                self._transport.resume_reading()


def parse_error(status: int, body: bytes) -> tuple[str, str]:
    """Return e.g. `429 queue_full` and the message; without the service's error shape, `429`."""
    parsed: Any = None
    with suppress(ValueError):
        parsed = json.loads(body)
    match parsed:
        case {"error": {"code": str(code), "message": str(message)}}:
            return f"{status} {code}", message
    return str(status), ""
