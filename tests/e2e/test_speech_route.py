"""`/tts/generate` with real workers. Parameters and errors: `tests/contract/test_speech.py`."""

import io
import re
import socket
from collections.abc import Iterator

import av
import httpx
import numpy as np
import pytest

from tests.support.api import SPEECH, both, post
from tests.support.engines import expected_pcm
from tests.support.http_client import speech_in_json, upload
from tests.support.service import API_KEY, Service, running_service

WAV_HEADER_BYTES = 44
SENTENCE = "The quick brown fox jumps over the lazy dog."


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(
        tmp_path_factory.mktemp("speech"), CONCURRENT_REQUESTS_PER_WORKER=2, LOG_LEVEL="DEBUG"
    ) as service:
        yield service


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


@pytest.fixture(scope="module")
def speaker(preview: Service) -> Iterator[httpx.Client]:
    with preview.client() as client:
        yield client


def jobs_of(service: Service) -> int:
    """Count the jobs sent to workers so far."""
    return service.log().count(" sent to worker ")


# --- parameters -----------------------------------------------------------------------------------


# --- text -----------------------------------------------------------------------------------------


@pytest.mark.fault(20, 21)
@pytest.mark.parametrize(
    "text",
    [
        "a\\u0000b",
        "a\\ud800b",
        "שלום עולם",
        "e\\u0301t\\u200be\\u0301",
        "你好,世界。",
        "नमस्ते",
        "a" * 10_000,
    ],
    ids=lambda text: text[:10],
)
def test_text_of_every_kind_is_spoken(client: httpx.Client, text: str) -> None:
    answer = post(client, f'{{"text": "{text}", "format": "raw_pcm"}}'.encode())
    assert answer.status_code == 200
    assert answer.content


@pytest.mark.fault(18)
def test_endless_body_is_refused_while_it_arrives(service: Service) -> None:
    with service.connect() as connection:
        connection.sendall(
            f"POST {SPEECH} HTTP/1.1\r\nHost: x\r\nX-API-Key: {API_KEY}\r\n"
            "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        for _ in range(30):
            connection.sendall(b"4000\r\n" + b" " * 0x4000 + b"\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


# --- methods, formats, headers --------------------------------------------------------------------


def test_ignored_voice_is_reported_in_a_header(
    service: Service, client: httpx.Client, speaker: httpx.Client
) -> None:
    asked = {"text": "Yes.", "format": "raw_pcm"}
    plain = speaker.get(SPEECH, params=asked)
    assert (plain.headers["X-TTS-Model"], "X-TTS-Notice" in plain.headers) == ("preview", False)
    given = speaker.get(SPEECH, params=asked | {"voice_id": "austen.wav"})
    assert given.status_code == 200
    assert "ignores voice_id" in given.headers["X-TTS-Notice"]


# --- the log --------------------------------------------------------------------------------------


def logged(service: Service, name: str, path: str = SPEECH) -> str:
    """Return the log line of the request with this id, from its path to its duration."""
    line = rf" {name} \w+ {path} (.*) [0-9.]+ s from 127\.0\.0\.1$"
    service.wait_until(lambda: re.search(line, service.log(), re.MULTILINE) is not None)
    [said] = re.findall(line, service.log(), re.MULTILINE)
    return str(said)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"text": "audio1"}, "200 audio/wav"),
        ({"text": "..."}, "400 empty_text"),
        ({"text": "a", "voice_id": "nobody.wav"}, "404 voice_not_found"),
        ({"text": "raise"}, "500 engine_error"),
        ({"text": "audio1", "api_key": "x"}, "401 invalid_api_key"),
    ],
)
def test_response_is_logged(service: Service, asked: dict[str, str], said: str) -> None:
    name = said.replace(" ", "-").replace("/", "-").replace("_", "-")
    headers = {"X-Request-ID": name} | ({} if "api_key" in asked else {"X-API-Key": API_KEY})
    with service.client(headers=headers) as client:
        client.get(SPEECH, params=asked)
    assert logged(service, name) == said


def test_aborted_response_is_logged(service: Service, client: httpx.Client) -> None:
    for name, text in (("it-failed", "audio20 sleep0.2 raise"), ("it-left", "audio20 sleep60")):
        asked = {"text": text, "format": "raw_pcm"}
        with client.stream("GET", SPEECH, params=asked, headers={"X-Request-ID": name}) as answer:
            audio = answer.iter_bytes()
            assert next(audio)
            if name == "it-failed":
                with pytest.raises(httpx.RemoteProtocolError):
                    list(audio)
        assert logged(service, name) == "200 aborted"


@pytest.mark.parametrize("path", [SPEECH, "/voices"])
def test_client_leaving_during_body_is_not_logged_as_bad_request(
    service: Service, path: str
) -> None:
    name = f"left-amid{path.replace('/', '-')}"
    whole = speech_in_json("audio1", name) if path == SPEECH else upload(bytes(1000), "v.wav", name)
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(whole[:-10])
    assert logged(service, name, path) == "- aborted"


@pytest.mark.parametrize("stream", [True, False])
def test_stream_is_chunked_and_file_has_content_length(client: httpx.Client, stream: bool) -> None:
    for answer in both(client, text="audio30", seed=5, stream=stream):
        assert (answer.headers.get("Transfer-Encoding") == "chunked") == stream
        assert ("Content-Length" in answer.headers) != stream
        assert answer.content[WAV_HEADER_BYTES:] == expected_pcm("audio30", 5)


# --- audio ----------------------------------------------------------------------------------------


@pytest.mark.covers("complete formats")
@pytest.mark.parametrize(
    ("name", "frame_s"),
    [("wav", 0), ("mp3", 3 * 576 / 24_000), ("fmp4", 3 * 1024 / 24_000), ("webm", 0.02)],
)
def test_each_format_decodes_to_the_complete_speech(
    speaker: httpx.Client, name: str, frame_s: float
) -> None:
    asked = {"text": SENTENCE, "seed": 3}
    pcm = speaker.get(SPEECH, params=asked | {"format": "raw_pcm"}).content
    file = speaker.get(SPEECH, params=asked | {"format": name}).content
    assert seconds_of(file) == pytest.approx(len(pcm) / 48_000, abs=frame_s + 1e-6)


def seconds_of(file: bytes) -> float:
    with av.open(io.BytesIO(file)) as media:
        return sum(frame.samples / frame.sample_rate for frame in media.decode(audio=0))


def test_get_and_post_are_equal(speaker: httpx.Client) -> None:
    get, post = both(speaker, text=SENTENCE, seed=11, format="raw_pcm")
    assert get.content == post.content
    samples = np.frombuffer(get.content, "<i2")
    assert np.abs(samples).max() > 3000


def test_same_seed_gives_same_audio_and_another_seed_does_not(speaker: httpx.Client) -> None:
    def speech(**seed: int) -> bytes:
        body = {"text": SENTENCE, "format": "raw_pcm"} | seed
        return speaker.post(SPEECH, json=body).content

    assert speech(seed=1) == speech(seed=1)
    assert speech(seed=1) != speech(seed=2)
    assert speech() != speech()


@pytest.mark.parametrize("name", ["wav", "mp3", "fmp4", "raw_pcm", "webm"])
def test_speech_trimmed_to_nothing_is_an_empty_response(client: httpx.Client, name: str) -> None:
    body = {"text": "audio5", "format": name, "remove_leading_milliseconds": 5000}
    answer = client.post("/tts/generate", json=body)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("audio/")
