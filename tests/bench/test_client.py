"""The playback figures, and a client's results for each kind of response."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import SplitResult, urlsplit

import numpy as np
import pytest

from app.audio.encoder import wav_header
from app.bench.client import (
    READ_AHEAD_S,
    ClientResult,
    Playout,
    SpeechClient,
    first_audible_sample,
)

SECOND = 24_000
QUIET, LOUD = 103, 104  # of 32768: below and above −50 dBFS


def played(*pieces: tuple[float, int]) -> tuple[Playout, list[float]]:
    """Play pieces by their arrival and length; return also when each begins."""
    playout = Playout()
    return playout, [playout.play(at_s, samples) for at_s, samples in pieces]


def test_audio_in_time_is_not_late_and_has_no_gap() -> None:
    playout, _ = played((5.0, SECOND), (5.5, SECOND), (7.0, SECOND))
    assert playout.lateness_s == [0, 0, 0]
    assert playout.gaps_s == []


def test_each_underrun_delays_all_later_pieces() -> None:
    playout, begins = played((5.0, SECOND), (6.25, SECOND), (7.5, SECOND), (7.6, SECOND))
    assert playout.lateness_s == pytest.approx([0, 0.25, 0.5, 0])
    assert playout.gaps_s == pytest.approx([0.25, 0.25])
    assert begins == pytest.approx([5, 6.25, 7.5, 8.5])
    assert (playout.due_s, playout.end_s) == pytest.approx((9, 9.5))


def test_samples_above_50_dbfs_of_either_sign_are_audible() -> None:
    def pcm(*samples: int) -> bytes:
        return np.array(samples, "<i2").tobytes()

    assert first_audible_sample(pcm(0, QUIET, -QUIET)) is None
    assert first_audible_sample(pcm(0, QUIET, -LOUD, LOUD)) == 2
    assert first_audible_sample(pcm(0, -32768)) == 1
    assert first_audible_sample(b"") is None


# --- over a connection ----------------------------------------------------------------------------


@asynccontextmanager
async def responding(*pieces: bytes | float, close: bool = False) -> AsyncIterator[SplitResult]:
    """Run a server that responds with these bytes, and pauses for these seconds."""

    done_connections: list[asyncio.Future[None]] = []

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        done_connections.append(done := asyncio.get_running_loop().create_future())
        with suppress(ConnectionError):
            while await reader.read(1 << 16):
                for piece in pieces:
                    if isinstance(piece, bytes):
                        writer.write(piece)
                        await writer.drain()
                    else:
                        await asyncio.sleep(piece)
                if close:
                    break
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        done.set_result(None)

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with server:
        yield urlsplit(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await asyncio.gather(*done_connections)


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
SILENCE = np.zeros(2400, "<i2").tobytes()
TONE = np.full(2400, LOUD, "<i2").tobytes()


async def request(url: SplitResult, form: str = "raw_pcm", *, paced: bool = False) -> ClientResult:
    client = SpeechClient(url, form, paced=paced)
    try:
        return await client.request(b"GET / HTTP/1.1\r\n\r\n")
    finally:
        client.close()


async def test_leading_silence_is_not_audible() -> None:
    async with responding(HEAD + chunk(SILENCE + TONE) + END) as url:
        result = await request(url)
    assert result.succeeded
    assert result.first_byte_s is not None
    assert result.first_audible_s == pytest.approx(result.first_byte_s + 0.1)
    assert result.audio_s == pytest.approx(0.2)


async def test_split_samples_are_joined_and_header_is_skipped() -> None:
    audio = wav_header(24_000, None) + SILENCE + TONE
    halves = audio[:45], audio[45:4801], audio[4801:]
    between = [part for half in halves for part in (chunk(half), 0.02)]
    async with responding(HEAD, *between, END) as url:
        result = await request(url, "wav")
    assert result.playout.samples == 4800
    assert result.first_byte_s is not None
    assert result.first_audible_s >= result.first_byte_s + 0.1


async def test_of_encoded_formats_only_first_byte_is_timed() -> None:
    async with responding(HEAD + chunk(TONE) + END) as url:
        result = await request(url, "mp3")
    assert result.succeeded
    assert result.first_byte_s
    assert result.first_audible_s is None
    assert result.playout.samples == 0


async def test_connection_is_reused() -> None:
    async with responding(HEAD + chunk(TONE) + END) as url:
        client = SpeechClient(url, "raw_pcm", paced=False)
        result = [await client.request(b"GET / HTTP/1.1\r\n\r\n") for _ in range(3)]
        client.close()
    assert [each.audio_s for each in result] == pytest.approx([0.1] * 3)


@pytest.mark.timed
async def test_paced_client_plays_to_the_end_and_limits_read_ahead() -> None:
    audio = TONE * 23  # 2.3 s
    async with responding(HEAD, chunk(audio[: len(audio) - 4800]), 0.05, chunk(TONE), END) as url:
        loop = asyncio.get_running_loop()
        began = loop.time()
        result = await request(url, paced=True)
        took_s = loop.time() - began
    assert result.succeeded
    assert took_s == pytest.approx(2.3, abs=0.2)
    assert result.total_s >= 2.2 - READ_AHEAD_S
    assert result.playout.gaps_s == []


QUEUE_FULL = b'{"error": {"message": "", "type": "", "code": "queue_full", "param": null}}'


@pytest.mark.parametrize(
    ("response", "outcome"),
    [
        (b"HTTP/1.1 429 X\r\nContent-Length: 75\r\n\r\n" + QUEUE_FULL, "429 queue_full"),
        (b"HTTP/1.1 502 X\r\nContent-Length: 4\r\n\r\noops", "502"),
        (HEAD + chunk(TONE), "cut off"),
        (b"", "no answer"),
        (b"SSH-2.0\r\n", "no HTTP"),
    ],
)
async def test_outcome_names_the_failure(response: bytes, outcome: str) -> None:
    async with responding(response, close=True) as url:
        result = await request(url)
    assert result.outcome == outcome
    assert not result.succeeded
