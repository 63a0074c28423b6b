"""Time from the request to the first decoded sample."""

import io
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

import av
import httpx
import pytest

from app.core.audio import SAMPLE_RATE
from tests.support.recogniser import CONTAINERS, decode_audio
from tests.support.service import Service

pytestmark = pytest.mark.timed

FORMATS = ["raw_pcm", "mp3", "fmp4", "webm"]
MAX_FIRST_AUDIO_S = 0.4
MAX_SHARE_OF_TOTAL = 0.1

TWELVE_WORDS = "The train to the city was late this morning because of snow."
NAMES = "Mary John Anna Peter Helen Robert Alice George Susan Thomas Laura Henry Jane Paul Emma Max"
ONE_MINUTE = " ".join(
    f"{name} walked home along the river, and the evening was warm and quiet."
    for name in NAMES.split()
)


@dataclass(frozen=True)
class Reading:
    """One answer, read as fast as it came. Times are since the request."""

    first_audio_s: float
    total_s: float
    body: bytes


@pytest.fixture(scope="module")
def client(preview: Service) -> Iterator[httpx.Client]:
    """A client of a service whose workers have both spoken before."""
    with preview.client() as client:
        for _ in range(2):
            read(client, TWELVE_WORDS, "raw_pcm")
        yield client


@pytest.mark.covers("early first audio")
@pytest.mark.parametrize("format_name", FORMATS)
def test_first_audio_of_a_sentence_comes_within_limit(
    client: httpx.Client, format_name: str
) -> None:
    first = min(read(client, TWELVE_WORDS, format_name).first_audio_s for _ in range(2))
    print(f"{format_name}: first audio after {first * 1000:.0f} ms")
    assert first <= MAX_FIRST_AUDIO_S


@pytest.mark.covers("early first audio")
def test_first_audio_of_a_minute_comes_long_before_the_last(client: httpx.Client) -> None:
    reading = read(client, ONE_MINUTE, "fmp4")
    share = reading.first_audio_s / reading.total_s
    print(f"the first audio after {share:.1%} of the time")
    assert 58 < len(decode_audio(reading.body, "fmp4")) / SAMPLE_RATE < 66
    assert share < MAX_SHARE_OF_TOTAL


def read(client: httpx.Client, text: str, format_name: str) -> Reading:
    request = {"text": text, "format": format_name, "seed": 1}
    received = bytearray()
    first_audio_s = None
    started = monotonic()
    with client.stream("POST", "/tts/generate", json=request) as answer:
        assert answer.status_code == 200
        for piece in answer.iter_raw():
            arrived_s = monotonic() - started
            received += piece
            if first_audio_s is None and audible(bytes(received), format_name):
                first_audio_s = arrived_s
    assert first_audio_s is not None
    return Reading(first_audio_s, monotonic() - started, bytes(received))


def audible(received: bytes, format_name: str) -> bool:
    """Return whether the bytes decode to at least one sample."""
    if format_name == "raw_pcm":
        return len(received) >= 2
    container = CONTAINERS[format_name]
    with suppress(av.FFmpegError), av.open(io.BytesIO(received), format=container) as file:
        return any(frame.samples for frame in file.decode(*file.streams.audio))
    return False
