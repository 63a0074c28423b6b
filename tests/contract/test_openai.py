"""`/v1`: parameters, voice names, errors and headers."""

import io
import json
from collections.abc import Iterator
from typing import Any

import av
import httpx
import numpy as np
import pytest

from app.audio.formats import OPENAI_ENCODERS
from tests.support.contract import ContractService, contract_service
from tests.support.engines import expected_pcm
from tests.support.media import audio_file, tone
from tests.support.service import API_KEY, ROOT

ROUTE = "/v1/audio/speech"
OPENAI_VOICES = """alloy ash ballad coral echo fable onyx nova sage shimmer verse marin cedar"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContractService]:
    with contract_service(
        tmp_path_factory.mktemp("openai"),
        preloaded_voices_dir=ROOT / "preloaded-voices",
        voice_aliases="nova=austen.wav, reader = austen ,ghost=nobody.wav",
        public_voice_list=True,
    ) as service:
        yield service


@pytest.fixture(scope="module")
def http(service: ContractService) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


def refusal(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    """Return the error of a response, which says not to retry."""
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert answer.headers["X-Should-Retry"] == "false"
    return answer.json()["error"]


def test_speed_out_of_bounds_is_refused_by_name(http: httpx.Client) -> None:
    for speed in (0, 0.24, 4.01, -1, "fast", True, [], 10**400):
        error = refusal(http.post(ROUTE, json={"input": "audio5", "speed": speed}))
        assert error["param"] == "speed"
    for speed in (0.25, 1, 4):
        answer = http.post(
            ROUTE, json={"input": "audio100", "speed": speed, "response_format": "pcm"}
        )
        assert len(answer.content) == 100 * 1920 / speed


def speaker_of(http: httpx.Client, voice: Any) -> int:
    """Return the scripted engine's code of a voice."""
    asked = {"input": "audio5", "voice": voice, "response_format": "pcm", "seed": 5}
    answer = http.post(ROUTE, json=asked)
    assert answer.status_code == 200, answer.text
    return int(np.frombuffer(answer.content, "<i2")[1])


def test_all_names_of_a_voice_resolve_to_it(http: httpx.Client) -> None:
    default = int(np.frombuffer(expected_pcm("audio5", 5), "<i2")[1])
    names = ["austen.wav", "austen", " austen", {"id": "austen.wav"}, {"id": "austen", "x": 1}]
    [austen] = {speaker_of(http, name) for name in [*names, "nova", "reader"]}
    assert austen != default
    others = [name for name in OPENAI_VOICES.split() if name != "nova"]
    assert {speaker_of(http, name) for name in [*others, {"id": "alloy"}, None]} == {default}


def test_unknown_voice_is_not_replaced_by_the_default(http: httpx.Client) -> None:
    for voice in ("nobody", "", "ghost", "Alloy", "AUSTEN", "austen.mp3", "../austen", "\ud800"):
        for given in (voice, {"id": voice}):
            answer = http.post(
                ROUTE,
                content=json.dumps({"input": "audio5", "voice": given}),
                headers={"Content-Type": "application/json"},
            )
            error = refusal(answer, 404)
            assert (error["code"], error["param"]) == ("voice_not_found", "voice")
    for given in (5, True, [], {}, {"id": None}, {"id": 5}, {"name": "austen"}):
        error = refusal(http.post(ROUTE, json={"input": "audio5", "voice": given}))
        assert error["param"] == "voice"


def add_voice(http: httpx.Client, name: str) -> None:
    recording = audio_file(tone(1.5, hz=300))
    http.post("/voices", files={"file": (name, recording)}).raise_for_status()


def test_uploaded_voice_takes_precedence_over_alias(http: httpx.Client) -> None:
    before = [speaker_of(http, name) for name in ("nova", "shimmer")]
    for name in ("nova.wav", "shimmer.wav"):
        add_voice(http, name)
    try:
        after = [speaker_of(http, name) for name in ("nova", "shimmer")]
        assert not set(after) & set(before)
        listed = {voice["id"]: voice["name"] for voice in voices_of(http)}
        assert listed.items() >= {"nova.wav": "nova", "shimmer.wav": "shimmer"}.items()
        assert "nova" not in listed
        add_voice(http, "nova.opus")
        assert speaker_of(http, "nova") == before[0]  # ambiguous, so the alias counts
        assert {voice["name"] for voice in voices_of(http)} >= {"nova.wav", "nova.opus"}
    finally:
        for name in ("nova.wav", "shimmer.wav", "nova.opus"):
            http.delete(f"/voices/{name}")


def test_alias_of_missing_voice_is_named_in_the_error(http: httpx.Client) -> None:
    asked = {"input": "audio1", "voice": "ghost"}
    answer = http.post(ROUTE, json=asked)
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("voice_not_found", "voice")
    assert "There is no voice 'nobody.wav', which 'ghost' stands for." in error["message"]


def voices_of(http: httpx.Client) -> list[dict[str, str]]:
    voices: list[dict[str, str]] = http.get("/v1/audio/voices").raise_for_status().json()["voices"]
    return voices


@pytest.mark.covers("chat clients")
def test_open_webui_lists_voices_without_a_key(service: ContractService) -> None:
    with service.client(headers={}) as stranger:
        answer = stranger.get("/v1/audio/voices", headers={"Accept": "*/*"})
        assert answer.raise_for_status().json() == {
            "voices": [
                {"id": "austen.wav", "name": "austen"},
                {"id": "nova", "name": "nova (austen.wav)"},
                {"id": "reader", "name": "reader (austen)"},
                {"id": "alloy", "name": "alloy (default voice)"},
            ]
        }
        for path in ("/voices", "/v1/models", "/v1/audio/models", "/v1/audio/voices/", ROUTE):
            assert stranger.get(path).status_code == 401
        schema = stranger.get("/openapi.json", params={"api_key": API_KEY}).json()["paths"]
        assert "security" not in schema["/v1/audio/voices"]["get"]
        assert "security" in schema["/v1/audio/models"]["get"]


def test_open_webui_lists_models(http: httpx.Client) -> None:
    models = http.get("/v1/audio/models").raise_for_status().json()["models"]
    assert models[:2] == [{"id": "scripted"}, {"id": "tts-1"}]


def test_additional_client_fields_are_ignored(http: httpx.Client) -> None:
    plain = {"input": "audio5", "response_format": "PCM", "seed": 5}
    added: dict[str, Any] = {
        "model": "kokoro",
        "instructions": "Speak like a pirate.",
        "lang_code": "a",
        "volume_multiplier": 1.0,
        "return_timestamps": False,
        "user": {"id": 1},
        "text": "",
    }
    nothing = dict.fromkeys(
        ("model", "voice", "speed", "instructions", "stream_format", "stream", "temperature")
    )
    answers = [http.post(ROUTE, json=plain | more) for more in ({}, added, nothing)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert {answer.content for answer in answers} == {expected_pcm("audio5", 5)}


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("input", 5),
        ("input", None),
        ("model", 5),
        ("response_format", "ogg"),
        ("response_format", "fmp4"),
        ("stream_format", "events"),
        ("instructions", ["x"]),
        ("exaggeration", 2.1),
        ("cfg_weight", -1),
        ("temperature", 0),
        ("repetition_penalty", 0.9),
        ("min_p", "x"),
        ("top_p", 0),
        ("seed", -1),
        ("stream", "false"),
        ("text_processing_chunk_size", 19),
    ],
)
def test_bad_value_is_refused_by_name(http: httpx.Client, name: str, bad: Any) -> None:
    error = refusal(http.post(ROUTE, json={"input": "audio5"} | {name: bad}))
    assert (error["param"], error["type"]) == (name, "invalid_request_error")
    assert name in error["message"]


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        ("...", 400, "empty_text"),
        ("mute", 400, "empty_text"),  # refused by the engine
        ("a" * 20_001, 413, "text_too_long"),
        ("a" * 300_000, 413, "payload_too_large"),
    ],
)
def test_unspeakable_text_is_refused_as_input(
    http: httpx.Client, text: str, status: int, code: str
) -> None:
    error = refusal(http.post(ROUTE, json={"input": text}), status)
    assert (error["code"], error["param"]) == (code, "input")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"input": NaN}', b'{"input": "\xff"}']
)
def test_non_object_json_body_is_refused(http: httpx.Client, body: bytes) -> None:
    answer = http.post(ROUTE, content=body, headers={"Content-Type": "application/json"})
    assert refusal(answer)["code"] == "invalid_request"


def test_accept_header_is_ignored(http: httpx.Client) -> None:
    for accept in ("application/octet-stream", "audio/wav", "text/html", "text/event-stream"):
        answer = http.post(ROUTE, json={"input": "audio5"}, headers={"Accept": accept})
        assert answer.headers["Content-Type"] == "audio/mpeg"


def test_file_has_its_size_and_content_length(http: httpx.Client) -> None:
    for form in OPENAI_ENCODERS:
        answer = http.post(
            ROUTE, json={"input": "audio30", "response_format": form, "stream": False}
        )
        assert answer.headers["Content-Length"] == str(len(answer.content))
        if form in ("wav", "flac", "opus"):
            with av.open(io.BytesIO(answer.content)) as file:
                assert file.duration == pytest.approx(1_200_000, abs=10_000)


def test_wrong_method_is_refused(http: httpx.Client) -> None:
    for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
        answer = http.request(method, ROUTE)
        assert answer.status_code == 405
        assert answer.headers["Allow"] == "POST"


def test_cross_origin_page_can_read_retry_headers(
    http: httpx.Client,
) -> None:
    asked = {
        "Origin": "https://example.com",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
    }
    allowed = http.options(ROUTE, headers=asked | {"X-API-Key": ""}).headers
    assert "x-stainless-lang" in allowed["Access-Control-Allow-Headers"]
    answer = http.post(ROUTE, json={}, headers={"Origin": "https://example.com"})
    assert "X-Should-Retry" in answer.headers["Access-Control-Expose-Headers"]
