"""`/tts/convert`: what is accepted and refused."""

from collections.abc import Iterator

import httpx
import msgspec
import pytest

from tests.support.api import all_files, error_code, wav
from tests.support.contract import ContractService


@pytest.fixture
def client(service: ContractService) -> Iterator[httpx.Client]:
    """A service whose model converts speech; no decoded file is left."""
    backend = service.backend
    model = backend.model
    backend.model = msgspec.structs.replace(model, converts_speech=True)
    backend.jobs.clear()
    with service.client() as client:
        yield client
    backend.model = model
    service.scan()
    assert all_files(service.folder) == {}


def convert(client: httpx.Client, content: bytes = b"", **fields: str) -> httpx.Response:
    files = {"file": ("said.wav", content or wav(1.5))}
    return client.post("/tts/convert", files=files, data=fields)


def test_a_recording_becomes_a_job(client: httpx.Client, service: ContractService) -> None:
    answer = convert(client, format="RAW_PCM", seed="7", stream="false", speed="1.5")
    assert answer.raise_for_status().headers["Content-Type"].startswith("audio/pcm")
    assert answer.headers["X-TTS-Model"] == "scripted"
    [job] = service.backend.jobs
    assert (job.text, job.voice, job.params.seed) == ("", None, 7)
    assert job.recording
    assert job.speed == 1.5


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"voice_id": "nobody"}, 404, "voice_not_found"),
        ({"model": "gpt-5"}, 404, "model_not_found"),
        ({"format": "aiff"}, 400, "invalid_request"),
        ({"seed": "-1"}, 400, "invalid_request"),
        ({"seed": "4294967296"}, 400, "invalid_request"),
        ({"stream": "perhaps"}, 400, "invalid_request"),
        ({"speed": "5"}, 400, "invalid_request"),
        ({"text": "Hello"}, 400, "invalid_request"),
    ],
)
def test_a_wrong_field_is_refused(
    client: httpx.Client, fields: dict[str, str], status: int, code: str
) -> None:
    assert error_code(convert(client, **fields), status) == code


def test_an_unusable_recording_is_refused(client: httpx.Client) -> None:
    assert error_code(convert(client, b"no audio"), 422) == "unusable_audio"
    assert error_code(convert(client, wav(0.5)), 422) == "unusable_audio"
    assert error_code(client.post("/tts/convert", data={"voice_id": "a"}), 415)
    answer = client.post("/tts/convert", files={"recording": ("said.wav", wav(1.5))})
    assert "not 'recording'" in answer.json()["error"]["message"]


def test_full_queue_is_noticed_before_the_recording_is_decoded(
    client: httpx.Client, service: ContractService
) -> None:
    service.backend.queue_is_full = True
    try:
        assert error_code(convert(client, b"no audio"), 429) == "queue_full"
        assert error_code(convert(client, b"no audio", voice_id="none.wav"), 404)
    finally:
        service.backend.queue_is_full = False


def test_a_model_that_converts_nothing_names_those_that_do(
    client: httpx.Client, service: ContractService
) -> None:
    service.backend.model = msgspec.structs.replace(service.backend.model, converts_speech=False)
    answer = convert(client)
    assert error_code(answer, 400) == "invalid_request"
    assert "chatterbox and chatterbox-multilingual can" in answer.json()["error"]["message"]
