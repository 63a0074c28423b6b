"""The player's arithmetic, and what a listener makes of answers of all kinds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import SplitResult, urlsplit

import numpy as np
import pytest

from app.audio.encoder import wav_header
from app.bench.listener import (
    READ_AHEAD_S,
    Hearing,
    Listener,
    Piece,
    first_audible,
    lateness_s,
    played,
    underruns_s,
)

SECOND = 24_000
QUIET, LOUD = 103, 104  # of 32768: below and above −50 dBFS
ON_TIME = [Piece(5.0, SECOND), Piece(5.5, SECOND), Piece(7.0, SECOND)]
LATE_TWICE = [Piece(5.0, SECOND), Piece(6.25, SECOND), Piece(7.5, SECOND), Piece(7.6, SECOND)]


def test_what_comes_in_time_is_neither_late_nor_missed() -> None:
    assert lateness_s(ON_TIME) == [0, 0, 0]
    assert underruns_s(ON_TIME) == []


def test_each_silence_delays_all_that_follows() -> None:
    assert lateness_s(LATE_TWICE) == pytest.approx([0, 0.25, 0.5, 0])
    assert underruns_s(LATE_TWICE) == pytest.approx([0.25, 0.25])
    assert [begin for begin, _ in played(LATE_TWICE)] == pytest.approx([5, 6.25, 7.5, 8.5])


def test_of_no_audio_nothing_is_late() -> None:
    assert lateness_s([]) == underruns_s([]) == list(played([])) == []


def test_audible_is_what_is_above_50_dbfs_of_either_sign() -> None:
    def pcm(*samples: int) -> bytes:
        return np.array(samples, "<i2").tobytes()

    assert first_audible(pcm(0, QUIET, -QUIET)) is None
    assert first_audible(pcm(0, QUIET, -LOUD, LOUD)) == 2
    assert first_audible(pcm(0, -32768)) == 1
    assert first_audible(b"") is None


# --- over a connection ----------------------------------------------------------------------------


@asynccontextmanager
async def answering(*pieces: bytes | float, close: bool = False) -> AsyncIterator[SplitResult]:
    """A server that answers everything with these bytes, and pauses in seconds."""

    over: list[asyncio.Future[None]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        over.append(done := asyncio.get_running_loop().create_future())
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

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield urlsplit(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await asyncio.gather(*over)


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
SILENCE = np.zeros(2400, "<i2").tobytes()
TONE = np.full(2400, LOUD, "<i2").tobytes()


async def hear(url: SplitResult, form: str = "raw_pcm", *, paced: bool = False) -> Hearing:
    listener = Listener(url, form, paced=paced)
    try:
        return await listener.hear(b"GET / HTTP/1.1\r\n\r\n")
    finally:
        listener.close()


async def test_leading_silence_is_heard_before_the_first_audible_sample() -> None:
    async with answering(HEAD + chunk(SILENCE + TONE) + END) as url:
        heard = await hear(url)
    assert heard.whole
    assert heard.first_byte_s is not None
    assert heard.first_audible_s == pytest.approx(heard.first_byte_s + 0.1)
    assert heard.audio_s == pytest.approx(0.2)


async def test_half_a_sample_counts_when_it_is_whole_and_a_header_is_no_sound() -> None:
    audio = wav_header(24_000, None) + SILENCE + TONE
    halves = audio[:45], audio[45:4801], audio[4801:]
    between = [part for half in halves for part in (chunk(half), 0.02)]
    async with answering(HEAD, *between, END) as url:
        heard = await hear(url, "wav")
    assert [piece.samples for piece in heard.pieces] == [2378, 2422]
    assert heard.first_audible_s == pytest.approx(heard.pieces[0].at_s + 0.1, abs=0.02)


async def test_of_what_is_encoded_only_the_first_byte_is_timed() -> None:
    async with answering(HEAD + chunk(TONE) + END) as url:
        heard = await hear(url, "mp3")
    assert heard.whole
    assert heard.first_byte_s
    assert heard.first_audible_s is None
    assert heard.pieces == []


async def test_one_connection_serves_several_requests() -> None:
    async with answering(HEAD + chunk(TONE) + END) as url:
        listener = Listener(url, "raw_pcm", paced=False)
        heard = [await listener.hear(b"GET / HTTP/1.1\r\n\r\n") for _ in range(3)]
        listener.close()
    assert [each.audio_s for each in heard] == pytest.approx([0.1] * 3)


async def test_a_paced_listener_stays_to_the_end_and_reads_little_ahead() -> None:
    audio = TONE * 23  # 2.3 s
    async with answering(HEAD, chunk(audio[: len(audio) - 4800]), 0.05, chunk(TONE), END) as url:
        loop = asyncio.get_running_loop()
        began = loop.time()
        heard = await hear(url, paced=True)
        took_s = loop.time() - began
    assert heard.whole
    assert took_s == pytest.approx(2.3, abs=0.2)
    assert heard.pieces[-1].at_s >= 2.2 - READ_AHEAD_S
    assert underruns_s(heard.pieces) == []


QUEUE_FULL = b'{"error": {"message": "", "type": "", "code": "queue_full", "param": null}}'


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"HTTP/1.1 429 X\r\nContent-Length: 75\r\n\r\n" + QUEUE_FULL, "429 queue_full"),
        (b"HTTP/1.1 502 X\r\nContent-Length: 4\r\n\r\noops", "502"),
        (HEAD + chunk(TONE), "cut off"),
        (b"", "no answer"),
        (b"SSH-2.0\r\n", "no HTTP"),
    ],
)
async def test_what_is_no_whole_answer_is_told_by_its_code(answer: bytes, outcome: str) -> None:
    async with answering(answer, close=True) as url:
        heard = await hear(url)
    assert heard.outcome == outcome
    assert not heard.whole
