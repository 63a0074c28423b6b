"""`/v1` with OpenAI's own client and real workers; `tests/contract/test_openai.py` has the rest."""

import base64
import io
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import av
import httpx
import jiwer
import numpy as np
import openai
import pytest
from openai import OpenAI

from app.core.errors import QueueFull
from tests.protocols.test_sse import events_in
from tests.support.recogniser import transcribe_all, words
from tests.support.service import API_KEY, ROOT, Service, running_service

ROUTE = "/v1/audio/speech"
MAX_WORD_ERROR_RATE = 0.2
SENTENCE = "The quick brown fox jumps over the lazy dog."
SENTENCES = [
    "The old man walked slowly along the river and thought about his children.",
    "There are twenty students in the classroom and only one teacher.",
    "George Washington lived in Virginia with his wife and two children.",
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
        PUBLIC_VOICE_LIST="true",
        LOG_LEVEL="DEBUG",
    ) as service:
        yield service


@pytest.fixture(scope="module")
def http(service: Service) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[OpenAI]:
    with closing(openai_client(service)) as client:
        yield client


@pytest.fixture(scope="module")
def speaker(preview: Service) -> Iterator[OpenAI]:
    """The client of a service that speaks English."""
    with closing(openai_client(preview)) as client:
        yield client


def openai_client(service: Service, key: str = API_KEY) -> OpenAI:
    return OpenAI(base_url=f"{service.url}/v1", api_key=key)


def speak(client: OpenAI, text: str, form: str = "pcm", **values: Any) -> bytes:
    """Return the complete speech."""
    asked: dict[str, Any] = {"model": "tts-1", "voice": "alloy"} | values
    return client.audio.speech.create(input=text, response_format=form, **asked).content


def seconds_of(file: bytes) -> float:
    with av.open(io.BytesIO(file)) as media:
        return sum(frame.samples / frame.sample_rate for frame in media.decode(audio=0))


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
def test_each_format_is_complete_and_of_its_media_type(speaker: OpenAI, form: str) -> None:
    asked: dict[str, Any] = {"extra_body": {"seed": 3}}
    pcm = speak(speaker, SENTENCE, "pcm", **asked)
    answer = speaker.audio.speech.with_raw_response.create(
        input=SENTENCE, model="tts-1", voice="alloy", response_format=form, **asked
    )
    start, media_type = STARTS[form]
    assert answer.headers["content-type"] == media_type
    assert answer.content.startswith(start)
    assert "content-length" not in answer.headers
    if form == "pcm":
        assert answer.content == pcm
        assert np.abs(np.frombuffer(pcm, "<i2")).max() > 3000
    else:
        assert seconds_of(answer.content) == pytest.approx(len(pcm) / 48_000, abs=0.13)


def test_default_format_is_mp3(client: OpenAI) -> None:
    answer = client.audio.speech.with_raw_response.create(
        input="audio5", model="tts-1", voice="alloy"
    )
    assert answer.headers["content-type"] == "audio/mpeg"


@pytest.mark.covers("OpenAI client")
@pytest.mark.parametrize("form", STARTS)
def test_stream_begins_during_generation(client: OpenAI, form: str) -> None:
    with client.audio.speech.with_streaming_response.create(
        input="audio20 sleep0.7 audio20", model="tts-1", voice="alloy", response_format=form
    ) as answer:
        pieces = answer.iter_bytes()
        first = next(pieces)
        rest = b"".join(pieces)
        assert answer.elapsed.total_seconds() > 0.6
    file = first + rest
    if form == "pcm":
        assert len(first) <= 20 * 1920
        assert len(file) == 40 * 1920
    else:
        assert seconds_of(first) >= 0.6
        assert seconds_of(file) == pytest.approx(1.6, abs=0.13)


@pytest.mark.covers("OpenAI client")
def test_wrong_key_is_not_retried(service: Service) -> None:
    with (
        closing(openai_client(service, key="wrong")) as stranger,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        speak(stranger, "audio5", **named("wrong-key"))
    assert refused.value.code == "invalid_api_key"
    assert refused.value.type == "authentication_error"
    assert calls_named(service, "wrong-key") == 1


@pytest.mark.covers("OpenAI client")
def test_unknown_voice_is_not_retried(service: Service, client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        speak(client, "audio5", voice="nobody", **named("unknown-voice"))
    assert (refused.value.code, refused.value.param) == ("voice_not_found", "voice")
    assert refused.value.body["message"] == "There is no voice 'nobody'. GET /voices lists them."
    assert calls_named(service, "unknown-voice") == 1


@pytest.mark.covers("OpenAI client")
def test_engine_failure_is_not_retried(service: Service, client: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as failed:
        speak(client, "sleep0.1 raise", **named("it-fails"))
    assert failed.value.code == "engine_error"
    assert calls_named(service, "it-fails") == 1


def test_failure_during_stream_is_an_error_for_the_client(client: OpenAI) -> None:
    with pytest.raises(openai.APIConnectionError):
        speak(client.with_options(max_retries=0), "audio20 sleep0.2 raise")


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


def test_service_not_ready_is_retried(tmp_path: Any) -> None:
    service = Service(tmp_path, {"MODEL": "tests.support.engines:LoadingEngine"})
    try:
        service.wait_until(lambda: is_answering(service), 20)
        with closing(openai_client(service)) as client:
            with pytest.raises(openai.InternalServerError) as refused:
                speak(client.with_options(max_retries=0), "audio5", voice="austen")
            assert refused.value.code == "not_ready"
            assert refused.value.response.headers["x-should-retry"] == "true"
            (service.folder / "go").touch()
            assert len(speak(client, "audio5")) == 5 * 1920
    finally:
        service.stop()


def is_answering(service: Service) -> bool:
    try:
        return bool(service.status()["workers"])
    except httpx.TransportError:
        return False


def test_models_are_listed_and_described(client: OpenAI) -> None:
    models = list(client.models.list())
    assert [model.id for model in models] == ["scripted", "tts-1", "tts-1-hd", "gpt-4o-mini-tts"]
    assert all(model.object == "model" and model.created > 1e9 for model in models)
    assert client.models.retrieve("tts-1") == models[1]
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("gpt-5")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


def test_unknown_route_is_not_retried(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.embeddings.create(input="x", model="x")
    assert refused.value.code == "not_found"
    assert refused.value.response.headers["x-should-retry"] == "false"


# --- events ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["pcm", "mp3", "opus"])
@pytest.mark.parametrize("speed", [1, 2])
def test_sse_events_have_audio_and_usage(
    http: httpx.Client, client: OpenAI, form: str, speed: float
) -> None:
    text, options = "audio20 audio7", {"seed": 5}
    answer = client.audio.speech.with_raw_response.create(
        input=text,
        model="gpt-4o-mini-tts",
        voice="alloy",
        response_format=form,  # type: ignore[arg-type]
        stream_format="sse",
        speed=speed,
        extra_body=options,
    )
    assert answer.headers["content-type"].partition(";")[0] == "text/event-stream"
    *deltas, done = events_in(answer.content)
    assert {delta["type"] for delta in deltas} == {"speech.audio.delta"}
    audio = b"".join(base64.b64decode(delta["audio"]) for delta in deltas)
    assert audio == speak(client, text, form, speed=speed, extra_body=options)
    usage = {"input_tokens": len(text), "output_tokens": 27, "total_tokens": len(text) + 27}
    assert done == {"type": "speech.audio.done", "usage": usage}


def test_aborted_sse_stream_has_an_error_event(client: OpenAI) -> None:
    stream = client.post(
        "/audio/speech",
        body={"input": "audio20 sleep0.2 raise", "stream_format": "sse"},
        cast_to=object,
        stream=True,
        stream_cls=openai.Stream[Any],
    )
    assert next(stream)["type"] == "speech.audio.delta"
    with pytest.raises(openai.APIError, match="The speech engine failed") as failed:
        list(stream)
    assert failed.value.body["code"] == "engine_error"


def test_aborted_sse_stream_has_no_clean_end(http: httpx.Client) -> None:
    asked = {"input": "audio20 sleep0.2 raise", "stream_format": "sse"}
    received: list[bytes] = []
    with http.stream("POST", ROUTE, json=asked) as answer, pytest.raises(httpx.RemoteProtocolError):
        received.extend(answer.iter_bytes())
    assert events_in(b"".join(received))[-1]["type"] == "error"


# --- speed ----------------------------------------------------------------------------------------


@pytest.mark.covers("speech speed")
@pytest.mark.slow
@pytest.mark.parametrize("speed", [0.75, 1.5])
def test_speech_at_another_speed_is_recognised_and_has_the_expected_length(
    speaker: OpenAI, speed: float
) -> None:
    recordings = []
    for seed, text in enumerate(SENTENCES):
        options: dict[str, Any] = {"extra_body": {"seed": seed}}
        plain = len(speak(speaker, text, **options))
        pcm = speak(speaker, text, speed=speed, **options)
        assert len(pcm) == pytest.approx(plain / speed, rel=0.001)
        assert seconds_of(speak(speaker, text, "mp3", speed=speed, **options)) == pytest.approx(
            plain / 48_000 / speed, rel=0.05
        )
        recordings.append(np.frombuffer(pcm, "<i2").astype(np.float32) / 32768)
    heard = [" ".join(heard) for heard in transcribe_all(recordings)]
    written = [" ".join(words(text)) for text in SENTENCES]
    print(f"speed {speed}: word error rate {jiwer.wer(written, heard):.1%}")
    assert jiwer.wer(written, heard) <= MAX_WORD_ERROR_RATE, heard


# --- voices ---------------------------------------------------------------------------------------


def test_alias_of_missing_voice_logs_a_warning(service: Service) -> None:
    service.wait_until(lambda: "VOICE_ALIASES" in service.log())
    assert "WARNING" in service.log()
    assert "VOICE_ALIASES: ghost refers to nobody.wav, which does not exist" in service.log()
    assert "reader is" not in service.log()


# --- what clients send ----------------------------------------------------------------------------

OPEN_WEBUI = {
    "method": "POST",
    "url": ROUTE,
    "headers": {
        "Content-Type": "application/json",
        "Authorization": f"Bearer {API_KEY}",
        "Accept": "*/*",
        "User-Agent": "Python/3.11 aiohttp/3.12",
        "X-OpenWebUI-User-Name": "Jane%20Doe",
        "X-OpenWebUI-User-Role": "admin",
    },
    "content": b'{"input": "audio20", "voice": "alloy", "model": "tts-1"}',
}
SILLY_TAVERN = {
    "method": "POST",
    "url": ROUTE,
    "headers": {
        "Content-Type": "application/json",
        "Authorization": f"Bearer {API_KEY}",
        "Accept": "*/*",
        "User-Agent": "node-fetch",
    },
    "content": b'{"model":"tts-1","input":"audio20","voice":"austen",'
    b'"response_format":"mp3","speed":1}',
}


@pytest.mark.covers("chat clients")
@pytest.mark.parametrize("captured", [OPEN_WEBUI, SILLY_TAVERN], ids=["open-webui", "sillytavern"])
def test_chat_client_request_gets_mp3(service: Service, captured: dict[str, Any]) -> None:
    with service.client(headers={}) as bare:
        answer = bare.request(**captured)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "audio/mpeg"
    assert seconds_of(answer.content) == pytest.approx(0.8, abs=0.1)


def test_voices_need_the_key_unless_public(preview: Service) -> None:
    with preview.client(headers={}) as stranger:
        answer = stranger.get("/v1/audio/voices")
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert stranger.get("/v1/audio/voices", params={"api_key": API_KEY}).status_code == 200


def test_text_longer_than_openais_limit_is_spoken(http: httpx.Client) -> None:
    asked = {
        "input": "word " * 2000,
        "response_format": "pcm",
        "chunk_overlap_method": "zero",
    }
    assert len(http.post(ROUTE, json=asked).content) == 2000 * 1920


def test_leaving_client_releases_the_slot(service: Service, http: httpx.Client) -> None:
    for form, speed in (("opus", 0.5), ("pcm", 1)):
        asked = {"input": "audio20 sleep60", "response_format": form, "speed": speed}
        with http.stream("POST", ROUTE, json=asked) as answer:
            pieces = answer.iter_bytes()
            assert next(pieces)
            assert service.busy() == 1
        service.wait_until(lambda: service.busy() == 0, 2)


def test_worker_death_during_stream_aborts_it(service: Service, client: OpenAI) -> None:
    with pytest.raises(openai.APIConnectionError):
        speak(client.with_options(max_retries=0), "audio20 sleep0.2 die", "flac", speed=2)
    service.wait_until(lambda: service.ready_workers() == 1)
    assert len(speak(client, "audio5")) == 5 * 1920
