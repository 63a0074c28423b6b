"""`/v1` with OpenAI's own client and real workers; `tests/contract/test_openai.py` has the rest."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import httpx
import jiwer
import numpy as np
import openai
import pytest
from openai import OpenAI

from app.core.errors import QueueFull
from tests.protocols.test_sse import events_in
from tests.support.media import seconds_of
from tests.support.recogniser import transcribe_all, words
from tests.support.service import API_KEY, ROOT, Service, running_service

ROUTE = "/v1/audio/speech"
MAX_WORD_ERROR_RATE = 0.2
SENTENCES = [
    "The old man walked slowly along the river and thought about his children.",
    "We need bread, butter, cheese, apples, two bottles of milk, and some salt.",
    "She had been waiting for more than an hour before the doctor finally called her name.",
]
STARTS = {
    "mp3": (b"\xff\xf3", "audio/mpeg"),
    "opus": (b"OggS", "audio/opus"),
    "aac": (b"\xff\xf1", "audio/aac"),
    "flac": (b"fLaC", "audio/flac"),
    "wav": (b"RIFF", "audio/wav"),
    "pcm": (b"", "audio/pcm;rate=24000;channels=1"),
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with the scripted engine."""
    with running_service(
        tmp_path_factory.mktemp("openai"),
        CONCURRENT_REQUESTS_PER_WORKER=2,
        PRELOADED_VOICES_DIR=ROOT / "preloaded-voices",
        VOICE_ALIASES="nova=austen.wav, reader = austen ,ghost=nobody.wav",
        LOG_LEVEL="DEBUG",
    ) as service:
        yield service


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[OpenAI]:
    with closing(openai_client(service)) as client:
        yield client


def openai_client(service: Service, key: str = API_KEY) -> OpenAI:
    return OpenAI(base_url=f"{service.url}/v1", api_key=key)


def speak(client: OpenAI, text: str, form: str = "pcm", **values: Any) -> bytes:
    """Return the complete speech."""
    params: dict[str, Any] = {"model": "tts-1", "voice": "alloy"} | values
    return client.audio.speech.create(input=text, response_format=form, **params).content


def calls_named(service: Service, name: str, expected: int = 1) -> int:
    """Wait for `expected` requests with this id in the log; return their number."""

    def count() -> int:
        return service.log().count(f" {name} POST {ROUTE} ")

    service.wait_until(lambda: count() >= expected)
    return count()


def named(name: str) -> dict[str, Any]:
    return {"extra_headers": {"X-Request-ID": name}}


# --- the openai package ---------------------------------------------------------------------------


@pytest.mark.covers("OpenAI client")
@pytest.mark.parametrize("form", STARTS)
def test_stream_is_complete_and_begins_during_generation(client: OpenAI, form: str) -> None:
    with client.audio.speech.with_streaming_response.create(
        input="audio20 sleep0.4 audio20", model="tts-1", voice="alloy", response_format=form
    ) as answer:
        pieces = answer.iter_bytes()
        first = next(pieces)
        rest = b"".join(pieces)
        assert answer.elapsed.total_seconds() > 0.35
    start, media_type = STARTS[form]
    assert answer.headers["content-type"] == media_type
    assert "content-length" not in answer.headers
    file = first + rest
    assert file.startswith(start)
    if form == "pcm":
        assert len(first) <= 20 * 1920
        assert len(file) == 40 * 1920
    else:
        assert seconds_of(first) >= 0.6
        assert seconds_of(file) == pytest.approx(1.6, abs=0.13)


@pytest.mark.covers("OpenAI client")
@pytest.mark.parametrize("text", [".", "😀", "mute"])  # the last one is refused by the engine
@pytest.mark.parametrize("voice", ["alloy", "", {"id": " "}])
def test_nothing_to_say_is_silence(client: OpenAI, text: str, voice: Any) -> None:
    assert speak(client, text, voice=voice) == bytes(9600)


@pytest.mark.covers("OpenAI client")
@pytest.mark.parametrize(("base", "url"), {"": "/audio", "/v1//": "/v1//audio"}.items())
def test_wrong_base_url_is_answered_with_the_route(service: Service, base: str, url: str) -> None:
    with (
        closing(OpenAI(base_url=f"{service.url}{base}", api_key=API_KEY)) as client,
        pytest.raises(openai.NotFoundError, match=f"at {url}/speech; the route is {ROUTE}."),
    ):
        speak(client, "audio5")


@pytest.mark.covers("OpenAI client")
@pytest.mark.parametrize(
    ("error", "code", "values"),
    [
        (openai.AuthenticationError, "invalid_api_key", {"key": "wrong"}),
        (openai.NotFoundError, "voice_not_found", {"voice": "nobody"}),
        (openai.InternalServerError, "engine_error", {"text": "sleep0.1 raise"}),
    ],
)
def test_permanent_error_is_not_retried(
    service: Service, error: type[openai.APIStatusError], code: str, values: dict[str, str]
) -> None:
    name = code.replace("_", "-")
    sent = {"key": API_KEY, "voice": "alloy", "text": "audio5"} | values
    with closing(openai_client(service, sent["key"])) as client, pytest.raises(error) as refused:
        speak(client, sent["text"], voice=sent["voice"], **named(name))
    assert refused.value.code == code
    assert calls_named(service, name) == 1


@pytest.mark.covers("OpenAI client")
def test_full_queue_is_retried_after_retry_after(start: Callable[..., Service]) -> None:
    service = start(MAX_QUEUED_REQUESTS=0, LOG_LEVEL="DEBUG")
    wait_s = QueueFull.retry_after_s
    assert wait_s
    busy = {"input": f"audio20 sleep{wait_s - 1} audio5"}
    with (
        service.client() as http,
        closing(openai_client(service)) as client,
        http.stream("POST", ROUTE, json=busy),
    ):
        with pytest.raises(openai.RateLimitError) as refused:
            speak(client.with_options(max_retries=0), "audio5")
        assert refused.value.code == "queue_full"
        assert refused.value.response.headers["x-should-retry"] == "true"
        answer = client.audio.speech.with_raw_response.create(
            input="audio5", model="tts-1", voice="alloy", response_format="pcm", **named("again")
        )
    assert answer.retries_taken == 1
    assert len(answer.content) == 5 * 1920
    assert answer.elapsed.total_seconds() < 1  # the second call alone
    assert calls_named(service, "again", 2) == 2


def test_models_are_listed_and_described(client: OpenAI) -> None:
    assert client.models.retrieve("tts-1") in list(client.models.list())


def test_aborted_sse_stream_has_an_error_event_and_no_clean_end(
    service: Service, client: OpenAI
) -> None:
    params = {"input": "audio20 sleep0.2 raise", "stream_format": "sse"}
    stream = client.post(
        "/audio/speech",
        body=params,
        cast_to=object,
        stream=True,
        stream_cls=openai.Stream[Any],
    )
    assert next(stream)["type"] == "speech.audio.delta"
    with pytest.raises(openai.APIError, match="The speech engine failed") as failed:
        list(stream)
    assert failed.value.body["code"] == "engine_error"

    received: list[bytes] = []
    with (
        service.client() as http,
        http.stream("POST", ROUTE, json=params) as answer,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        received.extend(answer.iter_bytes())
    assert events_in(b"".join(received))[-1]["type"] == "error"


def test_leaving_client_releases_the_slot(service: Service) -> None:
    params = {"input": "audio20 sleep60", "response_format": "opus", "speed": 0.5}
    with service.client() as http, http.stream("POST", ROUTE, json=params) as answer:
        pieces = answer.iter_bytes()
        assert next(pieces)
        assert service.busy() == 1
    service.wait_until(lambda: service.busy() == 0, 2)


def test_worker_death_during_stream_aborts_it(service: Service, client: OpenAI) -> None:
    with pytest.raises(openai.APIConnectionError):
        speak(client.with_options(max_retries=0), "audio20 sleep0.2 die", "flac", speed=2)
    service.wait_until(lambda: service.ready_workers() == 1)
    assert len(speak(client, "audio5")) == 5 * 1920


def test_alias_of_missing_voice_logs_a_warning(service: Service) -> None:
    service.wait_until(lambda: "VOICE_ALIASES" in service.log())
    assert "WARNING" in service.log()
    assert "VOICE_ALIASES: ghost refers to nobody.wav, which does not exist" in service.log()
    assert "reader is" not in service.log()


# --- speed ----------------------------------------------------------------------------------------


@pytest.mark.covers("speech speed")
@pytest.mark.parametrize("speed", [pytest.param(0.75, marks=pytest.mark.heavy), 1.5])
def test_speech_at_another_speed_is_recognised_and_has_the_expected_length(
    preview: Service, speed: float
) -> None:
    recordings, sentences = [], SENTENCES[:5]
    with closing(openai_client(preview)) as client:
        for seed, text in enumerate(sentences):
            options: dict[str, Any] = {"extra_body": {"seed": seed}}
            plain = speak(client, text, **options)
            pcm = speak(client, text, speed=speed, **options)
            assert len(pcm) == pytest.approx(len(plain) / speed, rel=0.001)
            recordings.append(np.frombuffer(pcm, "<i2").astype(np.float32) / 32768)
    recognised = [" ".join(sentence) for sentence in transcribe_all(recordings)]
    written = [" ".join(words(text)) for text in sentences]
    print(f"speed {speed}: word error rate {jiwer.wer(written, recognised):.1%}")
    assert jiwer.wer(written, recognised) <= MAX_WORD_ERROR_RATE, recognised
