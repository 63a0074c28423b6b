"""`/tts/generate` with real workers. Parameters and errors: `tests/contract/test_speech.py`."""

import re
import socket
from collections.abc import Iterator

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


def test_ignored_voice_is_reported_in_a_header(speaker: httpx.Client) -> None:
    params = {"text": "Yes.", "format": "raw_pcm"}
    plain = speaker.get(SPEECH, params=params)
    assert (plain.headers["X-TTS-Model"], "X-TTS-Notice" in plain.headers) == ("preview", False)
    with_voice = speaker.get(SPEECH, params=params | {"voice_id": "austen.wav"})
    assert with_voice.status_code == 200
    assert "ignores voice_id" in with_voice.headers["X-TTS-Notice"]


def logged(service: Service, name: str, path: str = SPEECH) -> str:
    """Return the log line of the request with this id, from its path to its duration."""
    line = rf" {name} \w+ {path} (.*) [0-9.]+ s from 127\.0\.0\.1$"
    service.wait_until(lambda: re.search(line, service.log(), re.MULTILINE) is not None)
    [part] = re.findall(line, service.log(), re.MULTILINE)
    return str(part)


def test_aborted_response_is_logged(service: Service, client: httpx.Client) -> None:
    for name, text in (("it-failed", "audio20 sleep0.2 raise"), ("it-left", "audio20 sleep60")):
        params = {"text": text, "format": "raw_pcm"}
        with client.stream("GET", SPEECH, params=params, headers={"X-Request-ID": name}) as answer:
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


def test_audio_depends_on_the_seed_and_not_on_the_method(speaker: httpx.Client) -> None:
    def speech(**seed: int) -> bytes:
        body = {"text": SENTENCE, "format": "raw_pcm"} | seed
        return speaker.post(SPEECH, json=body).content

    get, post = both(speaker, text=SENTENCE, seed=1, format="raw_pcm")
    assert get.content == post.content == speech(seed=1)
    assert np.abs(np.frombuffer(get.content, "<i2")).max() > 3000
    assert speech(seed=2) != get.content
    assert speech() != speech()


@pytest.mark.parametrize("name", ["wav", "mp3", "fmp4", "raw_pcm", "webm"])
def test_speech_trimmed_to_nothing_is_an_empty_response(client: httpx.Client, name: str) -> None:
    body = {"text": "audio5", "format": name, "remove_leading_milliseconds": 5000}
    answer = client.post("/tts/generate", json=body)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("audio/")
