"""`/tts/generate` by GET and POST: parameters, errors, formats and headers.

`tests/speech/test_options.py` has the bounds of every parameter.
"""

import gzip
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.api import SPEECH, both, post, refusal
from tests.support.contract import ContractService, contract_service
from tests.support.engines import expected_pcm
from tests.support.service import API_KEY

WAV_HEADER_BYTES = 44
HEADER_BYTES = {"wav": WAV_HEADER_BYTES, "webm": 253}
"""What differs in a file, which states its length, from a stream; an mp3 file has a frame more."""

UNKNOWN = 0xFFFFFFFF
KEY = {"X-API-Key": API_KEY}

PARAMS: dict[str, Any] = {
    "cfg_guidance_weight": 3,
    "synthesis_temperature": 0.05,
    "voice_exaggeration_factor": 2,
    "text_processing_chunk_size": 500,
    "audio_tokens_per_slice": 5,
    "remove_leading_milliseconds": 1,
    "remove_trailing_milliseconds": 2,
    "crossfade_duration_milliseconds": 0,
    "seed": 2**32 - 1,
    "repetition_penalty": 1,
    "min_p": 0.1,
    "top_p": 0.001,
    "top_k": 40,
    "chunk_overlap_method": "zero",
}

TYPES = {
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "fmp4": "audio/mp4",
    "raw_pcm": "audio/pcm;rate=24000;channels=1",
    "webm": "audio/webm",
}


@pytest.fixture
def no_job(service: ContractService) -> Iterator[None]:
    """Checks that the test starts no job."""
    before = len(service.backend.jobs)
    yield
    assert len(service.backend.jobs) == before


def test_parameters_reach_the_job(service: ContractService, client: httpx.Client) -> None:
    for answer in both(client, text="audio1", **PARAMS):
        assert answer.status_code == 200, answer.text
        params = service.backend.jobs[-1].params
        assert {name: getattr(params, name) for name in PARAMS} == PARAMS


@pytest.mark.parametrize("is_on", [True, False])
def test_markup_reaches_the_job_only_if_it_is_to_be_read(tmp_path: Path, is_on: bool) -> None:
    marked = "**audio1** &amp; <b>2</b>\n- a < b"
    with (
        contract_service(tmp_path, tts_strip_markup=is_on) as service,
        service.client() as client,
    ):
        for answer in both(client, text=marked):
            assert answer.status_code == 200, answer.text
            spoken = "audio1 & 2\u2028a < b" if is_on else marked.replace("\n", "\u2028")
            assert service.backend.jobs[-1].text == spoken


@pytest.mark.fault(24, 27)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cfg_weight", -0.01),
        ("seed", 2**32),
        ("text_processing_chunk_size", 10**30),
        ("top_p", "nan"),
        ("format", "mpga"),
        ("chunk_overlap_method", ""),
        ("stream", "maybe"),
        ("voice", "x"),
    ],
)
def test_wrong_parameter_is_refused_by_name(client: httpx.Client, name: str, value: Any) -> None:
    for answer in both(client, text="audio1", **{name: value}):
        error = refusal(answer)
        assert (error["param"], error["type"]) == (name, "invalid_request_error")
        assert name in error["message"]


@pytest.mark.fault(23)
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_non_finite_number_is_refused(client: httpx.Client, number: str) -> None:
    error = refusal(post(client, f'{{"text": "audio1", "min_p": {number}}}'.encode()))
    assert error["param"] == "min_p" if number == "1e999" else number in error["message"]
    assert refusal(client.get(SPEECH, params={"text": "a", "min_p": number}))["param"] == "min_p"


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
        b"{",
        b"[]",
        b'{"text":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
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


@pytest.mark.usefixtures("no_job")
@pytest.mark.fault(28)
def test_unknown_voice_is_refused(client: httpx.Client) -> None:
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


@pytest.mark.usefixtures("no_job")
@pytest.mark.fault(19)
@pytest.mark.parametrize("text", ["", " \n\t", "\x01\x02\x7f", "\U0001f600", "...", "\u200b"])
def test_unspeakable_text_is_refused(client: httpx.Client, text: str) -> None:
    for answer in both(client, text=text):
        error = refusal(answer)
        assert (error["code"], error["param"]) == ("empty_text", "text")


def test_text_unspeakable_for_the_engine_is_refused(client: httpx.Client) -> None:
    for answer in both(client, text="mute"):
        error = refusal(answer)
        assert (error["code"], error["param"]) == ("empty_text", "text")


@pytest.mark.usefixtures("no_job")
@pytest.mark.fault(18)
def test_text_over_the_limit_is_refused_without_a_job(client: httpx.Client) -> None:
    for answer in (*both(client, text="a" * 20_001), *both(client, text="a" + "**a** " * 4_000)):
        error = refusal(answer, 413)
        assert (error["code"], error["param"]) == ("text_too_long", "text")


@pytest.mark.fault(18)
@pytest.mark.parametrize("chunked", [False, True])
def test_body_over_the_limit_is_refused(client: httpx.Client, chunked: bool) -> None:
    body = b'{"text": "' + b"a" * 300_000 + b'"}'
    answer = post(client, iter([body]) if chunked else body)  # type: ignore[arg-type]
    error = refusal(answer, 413)
    assert (error["code"], error["param"]) == ("payload_too_large", "text")
    assert error["message"] == (
        "The text may have at most 20000 characters: send it in parts, or raise the setting "
        "MAX_TEXT_LENGTH."
    )


@pytest.mark.usefixtures("no_job")
@pytest.mark.fault(56)
def test_wrong_method_is_refused(client: httpx.Client) -> None:
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS"):
        answer = client.request(method, SPEECH, params={"text": "audio1"})
        assert refusal(answer, 405)["code"] == "method_not_allowed"
        assert answer.headers["Allow"] == "GET, HEAD, POST"
        assert f"{method} is not allowed at {SPEECH}; see {client.base_url}/docs" in answer.text
        assert "Allowed: GET, HEAD, POST." in answer.text


ENCODINGS = ["gzip", "br", "zstd", "deflate", "X-Unknown", "identity, gzip", "aws-chunked"]


@pytest.mark.usefixtures("no_job")
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("route", [SPEECH, "/v1/audio/speech", "/voices"])
def test_encoded_body_is_refused(client: httpx.Client, route: str, encoding: str) -> None:
    body = gzip.compress(b'{"text": "audio1", "input": "audio1"}')
    media_type = "multipart/form-data; boundary=x" if route == "/voices" else "application/json"
    answer = client.post(
        route,
        content=body,
        headers={"Content-Type": media_type, "Content-Encoding": encoding},
    )
    error = refusal(answer, 415)
    assert error["code"] == "unsupported_media_type"
    assert f"{encoding!r} is not supported: send the body without it" in error["message"]
    assert answer.headers["X-Should-Retry"] == "false"


def test_body_that_is_encoded_in_no_way_is_read(client: httpx.Client) -> None:
    body = b'{"text": "audio1"}'
    for encoding in ("identity", "IDENTITY", "", " identity , identity "):
        assert post(client, body, **{"Content-Encoding": encoding}).status_code == 200
    without_body = client.get(SPEECH, params={"text": "a"}, headers={"Content-Encoding": "gzip"})
    assert without_body.status_code == 200


MEANT = {
    "/v1//audio/speech": "/v1/audio/speech",
    "/v1/v1/audio/speech": "/v1/audio/speech",
    "/audio/speech": "/v1/audio/speech",
    "/v1/audio/speech/": "/v1/audio/speech",
    "//v1/audio/speech": "/v1/audio/speech",
    "/V1/Audio/Speech": "/v1/audio/speech",
    "/v1/audio/speech/audio/speech": "/v1/audio/speech",
    "/openai/v1/audio/speech": "/v1/audio/speech",
    "/v1/speech": "/v1/audio/speech",
    "/v1audio/speech": "/v1/audio/speech",
    "/v1/audio/speach": "/v1/audio/speech",
    "/v1/audio/speech%20": "/v1/audio/speech",
    "/v1/audio/speech/stream": "/v1/audio/speech",
    f"{SPEECH}/": SPEECH,
    "/tts//generate": SPEECH,
    "/TTS/Generate": SPEECH,
    "/v1/tts/generate": SPEECH,
    "/generate": SPEECH,
    "/tts": SPEECH,
    "/tts-generate": SPEECH,
    "/tts/generate/stream": SPEECH,
    "/v1": "/v1/models",
    "/v1/": "/v1/models",
    "/models": "/v1/models",
    "/v1/v1/models": "/v1/models",
    "/models/tts-1": "/v1/models/{model}",
    "/audio/voices": "/v1/audio/voices",
    "/v1/audio/voice": "/v1/audio/voices",
    "/voices/": "/voices",
    "/v1/voices": "/voices",
    "/Voices/x.wav": "/voices/{voice_id}",
    "/HEALTH": "/health",
    "/healthz": "/health",
    "/metrics/": "/metrics",
    "/system_status": "/system-status",
}


@pytest.mark.parametrize("path", MEANT)
def test_path_that_resembles_a_route_is_answered_with_it(client: httpx.Client, path: str) -> None:
    for method in ("GET", "POST"):
        error = refusal(client.request(method, f"http://service{path}"), 404)
        assert error["code"] == "not_found"
        assert error["message"].endswith(f"; the route is {MEANT[path]}.")


UNLIKE = (
    *("/v1/embeddings", "/v1/chat/completions", "/v1/audio/transcriptions", "/favicon.ico"),
    *("/robots.txt", "/web/nothing.js", "/x", "//", "/v1" * 101),
)


@pytest.mark.parametrize("path", UNLIKE)
def test_path_unlike_any_route_is_answered_with_the_manual(client: httpx.Client, path: str) -> None:
    error = refusal(client.get(f"http://service{path}"), 404)
    assert error["message"] == f"There is nothing at {path}; see http://service/docs."


OF_PURPOSE = {
    "/tts/speak": "/tts/generate",
    "/v1/tts": "/tts/generate",
    "/api/synthesize": "/tts/generate",
    "/v1/text-to-speech/austen": "/v1/audio/speech",
    "/api/speakers": "/voices",
    "/upload_reference": "/voices",
    "/status": "/health",
}


@pytest.mark.parametrize("path", OF_PURPOSE)
def test_path_of_another_service_is_answered_with_the_route_for_it(
    client: httpx.Client, path: str
) -> None:
    error = refusal(client.get(f"http://service{path}"), 404)
    assert error["message"].startswith(f"There is nothing at {path}; ")
    assert OF_PURPOSE[path] in error["message"]


@pytest.mark.fault(56)
@pytest.mark.parametrize("name", TYPES)
def test_headers_describe_the_audio_and_head_starts_no_job(
    service: ContractService, client: httpx.Client, name: str
) -> None:
    params = {"text": "audio1", "format": name}
    before = len(service.backend.jobs)
    head = client.head(SPEECH, params=params)
    assert (head.status_code, head.content) == (200, b"")
    assert len(service.backend.jobs) == before
    for answer in (head, *both(client, **params)):
        assert answer.headers["Content-Type"] == TYPES[name]
        assert answer.headers["X-TTS-Model"] == "scripted"
        assert answer.headers["X-Sample-Rate"] == "24000"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert "Content-Length" not in answer.headers
        assert answer.headers.keys() - {"server-timing"} == head.headers.keys()  # it has not waited


@pytest.mark.fault(56)
@pytest.mark.parametrize("asked", [{"text": ""}, {"text": "a", "format": "oga"}, {}])
def test_head_refuses_invalid_parameters_like_get(
    client: httpx.Client, asked: dict[str, str]
) -> None:
    assert client.head(SPEECH, params=asked).status_code == 400


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [("", "audio/wav"), ("text/html, audio/pcm;q=0.1", TYPES["raw_pcm"]), ("text/html", None)],
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
    params = {"text": "audio1", "format": "mp3"}
    answer = client.get(SPEECH, params=params, headers={"Accept": "text/html"})
    assert answer.headers["Content-Type"] == "audio/mpeg"


def test_valid_request_id_is_echoed_and_another_replaced(client: httpx.Client) -> None:
    def id_for(sent: str | bytes) -> str:
        headers = {"X-Request-ID": sent}
        return client.get(SPEECH, params={"text": ""}, headers=headers).headers["X-Request-ID"]

    for valid in ("a", "Request-1", "0" * 64):
        assert id_for(valid) == valid
    for invalid in ("", "a b", "0" * 65, "a#1", "é".encode()):
        assert len(id_for(invalid)) == 32
        assert id_for(invalid).isalnum()


@pytest.mark.parametrize(
    ("params", "outcome"),
    [
        ({"text": "audio1"}, "200 audio/wav"),
        ({"text": "..."}, "400 empty_text"),
        ({"text": "a", "voice_id": "nobody.wav"}, "404 voice_not_found"),
        ({"text": "raise"}, "500 engine_error"),
        ({"text": "audio1", "api_key": "wrong"}, "401 invalid_api_key"),
    ],
)
def test_response_is_logged(
    service: ContractService,
    caplog: pytest.LogCaptureFixture,
    params: dict[str, str],
    outcome: str,
) -> None:
    caplog.set_level("INFO")
    headers = {"X-Request-ID": "request-1"}
    with service.client(headers=headers if "api_key" in params else headers | KEY) as client:
        client.get(SPEECH, params=params)
    lines = [line for line in caplog.messages if line.startswith("request-1 GET ")]
    assert len(lines) == 1
    assert re.fullmatch(rf"request-1 GET {SPEECH} {outcome} [0-9.]+ s from 127\.0\.0\.1", lines[0])


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
        header = HEADER_BYTES.get(name, 0)
        assert file.content[-len(streamed.content) :][header:] == streamed.content[header:]
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
