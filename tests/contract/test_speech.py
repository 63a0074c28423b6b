"""`/tts/generate` by GET and POST: parameters, errors, formats and headers."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.api import SPEECH, both, post, refusal
from tests.support.contract import ContractService, contract_service
from tests.support.engines import expected_pcm

WAV_HEADER_BYTES = 44
UNKNOWN = 0xFFFFFFFF

# name: the least and the greatest accepted value, and values just beyond
BOUNDS: dict[str, tuple[Any, Any, list[Any]]] = {
    "cfg_guidance_weight": (0, 3, [-0.01, 3.01]),
    "cfg_weight": (0, 3, [-0.01, 3.01]),
    "synthesis_temperature": (0.05, 5, [0, 0.049, 5.01]),
    "temperature": (0.05, 5, [0.049, 5.01]),
    "voice_exaggeration_factor": (0, 2, [-0.01, 2.01]),
    "exaggeration": (0, 2, [-0.01, 2.01]),
    "text_processing_chunk_size": (20, 500, [-1, 0, 19, 501, 10**30]),
    "audio_tokens_per_slice": (5, 500, [4, 501]),
    "remove_leading_milliseconds": (0, 5000, [-1, 5001]),
    "remove_trailing_milliseconds": (0, 5000, [-1, 5001]),
    "crossfade_duration_milliseconds": (0, 500, [-1, 501]),
    "seed": (0, 2**32 - 1, [-1, 2**32]),
    "repetition_penalty": (1, 3, [0.99, 3.01]),
    "min_p": (0, 1, [-0.01, 1.01]),
    "top_p": (0.001, 1, [0, -0.01, 1.01]),
    "chunk_overlap_method": ("full", "zero", ["", "half", "FULL"]),
    "chunk_overlap_strategy": ("full", "zero", ["half"]),
    "format": ("wav", "webm", ["", "flac", "../wav"]),
}
NUMBERS = [name for name, (low, _, _) in BOUNDS.items() if not isinstance(low, str)]

TYPES = {
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "fmp4": "audio/mp4",
    "raw_pcm": "audio/pcm;rate=24000;channels=1",
    "webm": "audio/webm",
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContractService]:
    with contract_service(tmp_path_factory.mktemp("speech")) as service:
        yield service


@pytest.fixture(scope="module")
def client(service: ContractService) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


def jobs_of(service: ContractService) -> int:
    return len(service.backend.jobs)


@pytest.mark.parametrize("name", BOUNDS)
def test_parameter_within_bounds_is_accepted(client: httpx.Client, name: str) -> None:
    for value in BOUNDS[name][:2]:
        for answer in both(client, text="audio1", **{name: value}):
            assert answer.status_code == 200, answer.text


@pytest.mark.fault(24, 27)
@pytest.mark.parametrize("name", BOUNDS)
def test_parameter_out_of_bounds_is_refused_by_name(client: httpx.Client, name: str) -> None:
    for value in BOUNDS[name][2]:
        for answer in both(client, text="audio1", **{name: value}):
            error = refusal(answer)
            assert (error["param"], error["type"]) == (name, "invalid_request_error")
            assert name in error["message"]


@pytest.mark.fault(23, 24)
@pytest.mark.parametrize("name", NUMBERS)
def test_non_number_is_refused_for_number(client: httpx.Client, name: str) -> None:
    for value in ("true", '"1"', "[]", "{}", "1e999", "-1e999"):
        answer = post(client, f'{{"text": "audio1", "{name}": {value}}}'.encode())
        assert refusal(answer)["param"] == name, value
    for value in ("true", "", "one", "NaN", "nan", "inf", "-Infinity", "1e999"):
        answer = client.get(SPEECH, params={"text": "audio1", name: value})
        assert refusal(answer)["param"] == name, value


@pytest.mark.fault(24)
@pytest.mark.parametrize("name", ["text", "voice_id", "format", "chunk_overlap_method"])
def test_non_string_is_refused_for_string(client: httpx.Client, name: str) -> None:
    for value in (1, True, [], {}):
        answer = client.post(SPEECH, json={"text": "audio1"} | {name: value})
        assert refusal(answer)["param"] == name


def test_stream_accepts_only_true_and_false(client: httpx.Client) -> None:
    for value in (1, "false", None, []):
        answer = client.post(SPEECH, json={"text": "audio1", "stream": value})
        assert refusal(answer)["param"] == "stream"
    assert refusal(client.get(SPEECH, params={"text": "a", "stream": "maybe"}))["param"] == "stream"


@pytest.mark.fault(23)
@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_non_json_constants_are_refused(client: httpx.Client, constant: str) -> None:
    assert constant in refusal(post(client, f'{{"text": {constant}}}'.encode()))["message"]


def test_unknown_parameter_is_refused_by_name(client: httpx.Client) -> None:
    for answer in both(client, text="audio1", voice="x"):
        assert refusal(answer)["param"] == "voice"


@pytest.mark.fault(25)
def test_duplicate_parameter_is_refused_by_name(client: httpx.Client) -> None:
    assert refusal(post(client, b'{"text": "a", "seed": 1, "seed": 2}'))["param"] == "seed"
    assert refusal(client.get(f"{SPEECH}?text=a&seed=1&seed=2"))["param"] == "seed"
    for answer in both(client, text="audio1", temperature=1, synthesis_temperature=2):
        assert refusal(answer)["param"] == "temperature"


@pytest.mark.fault(25, 26)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"1",
        b"[" * 100_000,
        b'{"text":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"text": "a", "seed": ' + b"9" * 5000 + b"}",
        b'\xff{"text": "a"}',
        b'{"text": "a", "\\ud800": 1}',
        b'{"text": "a", "\\ud800": 1, "\\ud800": 2}',
        b'{"text": "a", "format": "\\ud800"}',
    ],
    ids=lambda body: body[:20].decode("latin-1"),
)
def test_invalid_json_body_is_refused(client: httpx.Client, body: bytes) -> None:
    assert refusal(post(client, body))["code"] == "invalid_request"


@pytest.mark.fault(26)
@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_another_content_type_is_refused(client: httpx.Client, media_type: str) -> None:
    answer = client.post(SPEECH, content=b'{"text": "a"}', headers={"Content-Type": media_type})
    assert refusal(answer, 415)["code"] == "unsupported_media_type"


def test_json_with_charset_is_accepted(client: httpx.Client) -> None:
    media_type = "Application/JSON; charset=utf-8"
    assert post(client, b'{"text": "audio1"}', **{"Content-Type": media_type}).status_code == 200


@pytest.mark.fault(28)
def test_unknown_voice_is_refused(service: ContractService, client: httpx.Client) -> None:
    before = jobs_of(service)
    for voice_id in ("nobody.wav", "", "../nobody.wav", "\ud800"):
        answer = client.post(
            SPEECH,
            content=json.dumps({"text": "a", "voice_id": voice_id}),
            headers={"Content-Type": "application/json"},
        )
        assert refusal(answer, 404)["code"] == "voice_not_found"
    for method in ("GET", "HEAD"):
        answer = client.request(method, SPEECH, params={"text": "a", "voice_id": "nobody.wav"})
        assert answer.status_code == 404
    assert jobs_of(service) == before


@pytest.mark.fault(19)
@pytest.mark.parametrize("text", ["", " \n\t", "\x01\x02\x7f", "\U0001f600", "...", "\u200b"])
def test_unspeakable_text_is_refused(
    service: ContractService, client: httpx.Client, text: str
) -> None:
    before = jobs_of(service)
    for answer in both(client, text=text):
        error = refusal(answer)
        assert (error["code"], error["param"]) == ("empty_text", "text")
    assert jobs_of(service) == before


def test_text_unspeakable_for_the_engine_is_refused(client: httpx.Client) -> None:
    for answer in both(client, text="mute"):
        error = refusal(answer)
        assert (error["code"], error["param"]) == ("empty_text", "text")


def test_missing_text_is_refused(client: httpx.Client) -> None:
    for answer in both(client, seed=1):
        assert refusal(answer)["param"] == "text"


@pytest.mark.fault(18)
def test_text_over_the_limit_is_refused_without_a_job(
    service: ContractService, client: httpx.Client
) -> None:
    before = jobs_of(service)
    for answer in both(client, text="a" * 20_001):
        error = refusal(answer, 413)
        assert (error["code"], error["param"]) == ("text_too_long", "text")
    assert jobs_of(service) == before


@pytest.mark.fault(18)
@pytest.mark.parametrize("chunked", [False, True])
def test_body_over_the_limit_is_refused(client: httpx.Client, chunked: bool) -> None:
    body = b'{"text": "' + b"a" * 300_000 + b'"}'
    answer = post(client, iter([body]) if chunked else body)  # type: ignore[arg-type]
    error = refusal(answer, 413)
    assert (error["code"], error["param"]) == ("payload_too_large", "text")
    assert error["message"] == "The text may have at most 20000 characters."


@pytest.mark.fault(56)
def test_wrong_method_is_refused(service: ContractService, client: httpx.Client) -> None:
    before = jobs_of(service)
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS"):
        answer = client.request(method, SPEECH, params={"text": "audio1"})
        assert refusal(answer, 405)["code"] == "method_not_allowed"
        assert answer.headers["Allow"] == "GET, HEAD, POST"
        assert f"{method} is not allowed at {SPEECH}; see /docs" in answer.text
    assert jobs_of(service) == before


def test_unknown_path_is_named(client: httpx.Client) -> None:
    error = refusal(client.get("/tts/speak"), 404)
    assert error["code"] == "not_found"
    assert error["message"] == "There is nothing at /tts/speak; see /docs."
    assert refusal(client.get(f"{SPEECH}/", params={"text": "a"}), 404)["code"] == "not_found"


@pytest.mark.fault(56)
@pytest.mark.parametrize("name", TYPES)
def test_head_has_the_headers_of_get_and_starts_no_job(
    service: ContractService, client: httpx.Client, name: str
) -> None:
    asked = {"text": "audio1", "format": name}
    before = jobs_of(service)
    head = client.head(SPEECH, params=asked)
    assert (head.status_code, head.content, jobs_of(service)) == (200, b"", before)
    get = client.get(SPEECH, params=asked)
    for own in ("Date", "X-Request-ID"):
        head.headers.pop(own, None)
        get.headers.pop(own, None)
    assert head.headers == get.headers


@pytest.mark.fault(56)
@pytest.mark.parametrize("asked", [{"text": ""}, {"text": "a", "format": "ogg"}, {}])
def test_head_refuses_invalid_parameters_like_get(
    client: httpx.Client, asked: dict[str, str]
) -> None:
    assert client.head(SPEECH, params=asked).status_code == 400


@pytest.mark.parametrize("name", TYPES)
def test_response_headers_describe_the_audio(client: httpx.Client, name: str) -> None:
    for answer in both(client, text="audio1", format=name):
        assert answer.headers["Content-Type"] == TYPES[name]
        assert answer.headers["X-TTS-Model"] == "scripted"
        assert answer.headers["X-Sample-Rate"] == "24000"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert "Content-Length" not in answer.headers


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("", "audio/wav"),
        ("*/*", "audio/wav"),
        ("audio/*", "audio/wav"),
        ("audio/mpeg", "audio/mpeg"),
        ("AUDIO/MP4", "audio/mp4"),
        ("audio/webm, audio/mpeg", "audio/webm"),
        ("audio/webm;q=0.5, audio/mpeg;q=0.9", "audio/mpeg"),
        ("text/html, audio/pcm;q=0.1", TYPES["raw_pcm"]),
        ("text/html,*/*;q=0.8", "audio/wav"),
        ("audio/ogg, audio/webm;q=0", None),
        ("text/html", None),
    ],
)
def test_accept_chooses_the_format(
    client: httpx.Client, accept: str, media_type: str | None
) -> None:
    answer = client.get(SPEECH, params={"text": "audio1"}, headers={"Accept": accept})
    if media_type is None:
        assert refusal(answer, 406)["code"] == "not_acceptable"
    else:
        assert answer.headers["Content-Type"] == media_type


def test_format_parameter_overrides_accept(client: httpx.Client) -> None:
    for accept in ("audio/webm", "text/html"):
        answer = client.get(
            SPEECH, params={"text": "audio1", "format": "mp3"}, headers={"Accept": accept}
        )
        assert answer.headers["Content-Type"] == "audio/mpeg"


def test_valid_request_id_is_echoed(client: httpx.Client) -> None:
    for given in ("a", "Request-1", "0" * 64):
        answer = client.get(SPEECH, params={"text": "audio1"}, headers={"X-Request-ID": given})
        assert answer.headers["X-Request-ID"] == given


def test_invalid_request_id_is_replaced(client: httpx.Client) -> None:
    for given in ("", "a b", "0" * 65, "a#1", "é".encode()):
        answer = client.get(SPEECH, params={"text": ""}, headers={"X-Request-ID": given})
        made = answer.headers["X-Request-ID"]
        assert made.isalnum()
        assert len(made) == 32


def sizes_in(wav: bytes) -> tuple[int, int]:
    """Return the sizes of file and data in the header."""
    return struct.unpack_from("<I", wav, 4)[0], struct.unpack_from("<I", wav, 40)[0]


def test_streamed_wav_has_unknown_size(client: httpx.Client) -> None:
    for answer in both(client, text="audio30", seed=5, stream=True):
        assert sizes_in(answer.content) == (UNKNOWN, UNKNOWN)
        assert answer.content[WAV_HEADER_BYTES:] == expected_pcm("audio30", 5)


@pytest.mark.parametrize("name", TYPES)
def test_file_has_its_true_size(client: httpx.Client, name: str) -> None:
    asked = {"text": "audio30 audio7", "seed": 5, "format": name}
    streamed = client.get(SPEECH, params=asked)
    for file in both(client, **asked, stream=False):
        assert file.headers["Content-Length"] == str(len(file.content))
        assert file.headers["Content-Type"] == TYPES[name]
        header = WAV_HEADER_BYTES if name == "wav" else 0
        assert file.content[header:] == streamed.content[header:]
        if name == "wav":
            size = len(file.content)
            assert sizes_in(file.content) == (size - 8, size - WAV_HEADER_BYTES)


def test_schema_has_the_defaults_of_the_service(tmp_path: Path) -> None:
    with (
        contract_service(tmp_path, max_text_length=500, tts_synthesis_temperature=1.25) as service,
        service.client() as client,
    ):
        operations = client.get("/openapi.json").json()["paths"][SPEECH]
    in_query = {one["name"]: one["schema"] for one in operations["get"]["parameters"]}
    content = operations["post"]["requestBody"]["content"]["application/json"]
    for parameters in (in_query, content["schema"]["properties"]):
        assert parameters["text"]["x-max-length"] == 500
        assert parameters["synthesis_temperature"]["default"] == 1.25
        assert parameters["top_p"]["default"] == 1.0
        assert "default" not in parameters["seed"]
