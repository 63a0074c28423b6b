"""`/v1`: parameters, voice names, errors and headers."""

import base64
import io
import json
from typing import Any

import av
import httpx
import numpy as np
import pytest

from app.audio.formats import ENCODERS
from app.protocols.openai.routes import PUBLIC_LISTS
from app.speech.voice_resolver import OPENAI_VOICES
from tests.protocols.test_sse import events_in
from tests.support import api
from tests.support.contract import ContractService
from tests.support.engines import expected_pcm
from tests.support.media import seconds_of
from tests.support.service import API_KEY, ROOT

ROUTE = "/v1/audio/speech"
MODELS = ["scripted", "tts-1", "tts-1-hd", "gpt-4o-mini-tts"]
SETTINGS = {
    "preloaded_voices_dir": ROOT / "preloaded-voices",
    "voice_aliases": "nova=austen.wav, reader = austen ,ghost=nobody.wav",
    "public_voice_list": True,
}


def refusal(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    """Return the error of a response, which says not to retry."""
    assert answer.headers["X-Should-Retry"] == "false"
    return api.refusal(answer, status)


def test_speed_out_of_bounds_is_refused_by_name(client: httpx.Client) -> None:
    for speed in (0, 0.24, 4.01, -1, "fast", True, [], 10**400):
        error = refusal(client.post(ROUTE, json={"input": "audio5", "speed": speed}))
        assert error["param"] == "speed"
    for speed in (0.25, 1, 4):
        answer = client.post(
            ROUTE, json={"input": "audio100", "speed": speed, "response_format": "pcm"}
        )
        assert len(answer.content) == 100 * 1920 / speed
    for form in ENCODERS.keys() - {"raw_pcm"}:
        params = {"input": "audio100", "speed": 2, "response_format": form}
        file = client.post(ROUTE, json=params).content
        assert seconds_of(file) == pytest.approx(2, rel=0.05)


def speaker_of(client: httpx.Client, voice: Any) -> int:
    """Return the scripted engine's code of a voice."""
    asked = {"input": "audio5", "voice": voice, "response_format": "pcm", "seed": 5}
    answer = client.post(ROUTE, json=asked)
    assert answer.status_code == 200, answer.text
    return int(np.frombuffer(answer.content, "<i2")[1])


def test_all_names_of_a_voice_resolve_to_it(client: httpx.Client) -> None:
    default = int(np.frombuffer(expected_pcm("audio5", 5), "<i2")[1])
    names = ["austen.wav", "austen", " austen", {"id": "austen.wav"}, {"id": "austen", "x": 1}]
    [austen] = {speaker_of(client, name) for name in [*names, "nova", "reader"]}
    assert austen != default
    others = [name for name in OPENAI_VOICES if name != "nova"]
    blank = ["", " ", "\t\n", "\u00a0", {"id": ""}, {"id": "  ", "x": 1}]
    assert {speaker_of(client, name) for name in [*others, {"id": "alloy"}, *blank, None]} == {
        default
    }


def test_unknown_voice_is_not_replaced_by_the_default(client: httpx.Client) -> None:
    for voice in ("nobody", "ghost", "Alloy", "AUSTEN", "austen.mp3", "../austen", "\ud800"):
        for given in (voice, {"id": voice}):
            answer = client.post(
                ROUTE,
                content=json.dumps({"input": "audio5", "voice": given}),
                headers={"Content-Type": "application/json"},
            )
            error = refusal(answer, 404)
            assert (error["code"], error["param"]) == ("voice_not_found", "voice")
    for given in (5, True, [], {}, {"id": None}, {"id": 5}, {"name": "austen"}):
        error = refusal(client.post(ROUTE, json={"input": "audio5", "voice": given}))
        assert error["param"] == "voice"


OPEN_WEBUI = {
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
    "headers": {
        "Content-Type": "application/json",
        "Authorization": f"Bearer {API_KEY}",
        "Accept": "*/*",
        "User-Agent": "node-fetch",
    },
    "content": b'{"model":"tts-1","input":"audio20","voice":"austen",'
    b'"response_format":"mp3","speed":1}',
}


HOME_ASSISTANT = {
    "headers": {
        "Content-Type": "application/json",
        "Authorization": f"Bearer {API_KEY}",
        "Accept": "*/*",
        "User-Agent": "HomeAssistant/2026.11 aiohttp/3.13 Python/3.13",
    },
    "content": b'{"model":"tts-1","input":"audio20","voice":"austen",'
    b'"response_format":"mp3","speed":1.0,"stream":true}',
}
KEY_IN_URL = {
    "params": {"api_key": API_KEY},
    "headers": {"Content-Type": "application/json", "Accept": "*/*", "User-Agent": "node-fetch"},
    "content": b'{"model":"scripted","input":"audio20","voice":"","params":{"speed":1}}',
}


@pytest.mark.covers("chat clients")
@pytest.mark.parametrize(
    "captured",
    [OPEN_WEBUI, SILLY_TAVERN, HOME_ASSISTANT, KEY_IN_URL],
    ids=["open-webui", "sillytavern", "home-assistant", "key in the URL"],
)
def test_chat_client_request_gets_mp3(stranger: httpx.Client, captured: dict[str, Any]) -> None:
    answer = stranger.post(ROUTE, **captured)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "audio/mpeg"
    assert seconds_of(answer.content) == pytest.approx(0.8, abs=0.1)


@pytest.mark.covers("chat clients")
def test_open_webui_lists_voices_without_a_key(stranger: httpx.Client) -> None:
    answer = stranger.get("/v1/audio/voices", headers={"Accept": "*/*"})
    assert answer.raise_for_status().json() == {
        "voices": [
            {"id": "austen.wav", "name": "austen", "language": "en"},
            {"id": "joe-synthetic.flac", "name": "joe-synthetic", "language": "en"},
            {"id": "slt-synthetic.flac", "name": "slt-synthetic", "language": "en"},
            {"id": "nova", "name": "nova (austen.wav)", "language": "en"},
            {"id": "reader", "name": "reader (austen)", "language": "en"},
            {"id": "alloy", "name": "alloy (default voice)", "language": None},
        ]
    }
    assert [model["id"] for model in stranger.get("/v1/models").json()["data"]] == MODELS
    assert stranger.get("/v1/audio/models").json()["models"] == [{"id": name} for name in MODELS]
    assert stranger.get("/v1/models", params={"api_key": "wrong"}).status_code == 200
    for path in ("/voices", "/v1/models/tts-1", "/v1/models/", "/v1/audio/voices/", ROUTE):
        assert stranger.get(path).status_code == 401
    schema = stranger.get("/openapi.json", params={"api_key": API_KEY}).json()["paths"]
    for path in PUBLIC_LISTS:
        assert "security" not in schema[path]["get"]
    assert "security" in schema["/v1/models/{model}"]["get"]


def test_models_are_listed_and_described(client: httpx.Client) -> None:
    models = client.get("/v1/models").raise_for_status().json()["data"]
    assert [model["id"] for model in models] == MODELS
    assert all(model["object"] == "model" and model["created"] > 1e9 for model in models)
    assert client.get("/v1/models/tts-1").json() == models[1]
    error = refusal(client.get("/v1/models/gpt-5"), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    for_open_webui = client.get("/v1/audio/models").raise_for_status().json()["models"]
    assert for_open_webui == [{"id": name} for name in MODELS]


def test_unknown_route_is_not_retried(client: httpx.Client) -> None:
    answer = client.post("/v1/embeddings", json={"input": "x", "model": "x"})
    assert refusal(answer, 404)["code"] == "not_found"


@pytest.mark.parametrize(("form", "speed"), [("pcm", 1), ("mp3", 1), ("opus", 2)])
def test_sse_events_have_audio_and_usage(client: httpx.Client, form: str, speed: float) -> None:
    params = {"input": "audio20 audio7", "seed": 5, "response_format": form, "speed": speed}
    answer = client.post(ROUTE, json=params | {"stream_format": "sse"})
    assert answer.headers["Content-Type"].partition(";")[0] == "text/event-stream"
    *deltas, done = events_in(answer.content)
    assert {delta["type"] for delta in deltas} == {"speech.audio.delta"}
    audio = b"".join(base64.b64decode(delta["audio"]) for delta in deltas)
    assert audio == client.post(ROUTE, json=params).content
    usage = {"input_tokens": 14, "output_tokens": 27, "total_tokens": 41}
    assert done == {"type": "speech.audio.done", "usage": usage}


def test_text_longer_than_openais_limit_is_spoken(client: httpx.Client) -> None:
    params = {"input": "word " * 2000, "response_format": "pcm"}
    assert len(client.post(ROUTE, json=params).content) == 2000 * 1920


def test_additional_client_fields_are_ignored(client: httpx.Client) -> None:
    plain = {"input": "audio5", "response_format": "PCM", "seed": 5}
    added: dict[str, Any] = {
        "model": "tts-1-hd",
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
    answers = [client.post(ROUTE, json=plain | more) for more in ({}, added, nothing)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert {answer.content for answer in answers} == {expected_pcm("audio5", 5)}


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("input", None),
        ("model", 5),
        ("response_format", "mpga"),
        ("stream_format", "events"),
        ("instructions", ["x"]),
        ("temperature", 0),
        ("stream", "false"),
    ],
)
def test_bad_value_is_refused_by_name(client: httpx.Client, name: str, bad: Any) -> None:
    error = refusal(client.post(ROUTE, json={"input": "audio5"} | {name: bad}))
    assert (error["param"], error["type"]) == (name, "invalid_request_error")
    assert name in error["message"]


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        ("", 400, "empty_text"),
        ("a" * 20_001, 413, "text_too_long"),
        ("a" * 300_000, 413, "payload_too_large"),
    ],
)
def test_unspeakable_text_is_refused_as_input(
    client: httpx.Client, text: str, status: int, code: str
) -> None:
    error = refusal(client.post(ROUTE, json={"input": text}), status)
    assert (error["code"], error["param"]) == (code, "input")


NOTHING_TO_SAY = [".", "...", "😀", "?!", " ", "\n\n", "\u200b", "🎉🎉", "—", "mute"]
"""The last one is refused by the engine."""


@pytest.mark.parametrize("text", NOTHING_TO_SAY)
def test_nothing_to_say_is_a_moment_of_silence(
    service: ContractService, client: httpx.Client, text: str
) -> None:
    jobs = [job for job in service.backend.jobs if job.text != "mute"]
    for stream in (True, False):
        asked = {"input": text, "response_format": "pcm", "stream": stream}
        answer = client.post(ROUTE, json=asked)
        assert (answer.status_code, answer.content) == (200, bytes(9600))
    assert [job for job in service.backend.jobs if job.text != "mute"] == jobs


def test_silence_has_the_format_that_was_asked_for(
    service: ContractService, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.backend, "queue_is_full", True)  # it needs no place in it
    for form in ENCODERS.keys() - {"raw_pcm"}:
        answer = client.post(ROUTE, json={"input": ".", "response_format": form})
        assert answer.headers["Content-Type"] == ENCODERS[form].media_type
        assert seconds_of(answer.content) == pytest.approx(0.2, abs=0.07)
    asked = {"input": "...", "response_format": "pcm", "stream_format": "sse", "voice": "austen"}
    delta, done = events_in(client.post(ROUTE, json=asked).content)
    assert base64.b64decode(delta["audio"]) == bytes(9600)
    assert done["usage"] == {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8}
    assert refusal(client.post(ROUTE, json={"input": ".", "voice": "x"}), 404)["param"] == "voice"
    assert client.post(ROUTE, json={"input": ".", "speed": "x"}).status_code == 400


def test_silence_is_not_spoken_while_the_service_stops(
    service: ContractService, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.backend, "state", "draining")
    assert api.error_code(client.post(ROUTE, json={"input": "."}), 503) == "shutting_down"


@pytest.mark.parametrize("body", [b"", b"[]", b'{"input": NaN}'])
def test_non_object_json_body_is_refused(client: httpx.Client, body: bytes) -> None:
    answer = client.post(ROUTE, content=body, headers={"Content-Type": "application/json"})
    assert refusal(answer)["code"] == "invalid_request"


def test_accept_header_is_ignored(client: httpx.Client) -> None:
    for accept in ("application/octet-stream", "audio/wav", "text/html", "text/event-stream"):
        answer = client.post(ROUTE, json={"input": "audio5"}, headers={"Accept": accept})
        assert answer.headers["Content-Type"] == "audio/mpeg"


def test_file_has_its_size_and_content_length(client: httpx.Client) -> None:
    for form in ENCODERS:
        answer = client.post(
            ROUTE, json={"input": "audio30", "response_format": form, "stream": False}
        )
        assert answer.headers["Content-Length"] == str(len(answer.content))
        if form in ("wav", "flac", "opus"):
            with av.open(io.BytesIO(answer.content)) as file:
                assert file.duration == pytest.approx(1_200_000, abs=10_000)


def test_wrong_method_is_refused(client: httpx.Client) -> None:
    for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
        answer = client.request(method, ROUTE)
        assert answer.status_code == 405
        assert answer.headers["Allow"] == "POST"


def test_cross_origin_page_can_read_retry_headers(
    client: httpx.Client,
) -> None:
    asked = {
        "Origin": "https://example.com",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
    }
    allowed = client.options(ROUTE, headers=asked | {"X-API-Key": ""}).headers
    assert "x-stainless-lang" in allowed["Access-Control-Allow-Headers"]
    answer = client.post(ROUTE, json={}, headers={"Origin": "https://example.com"})
    assert "X-Should-Retry" in answer.headers["Access-Control-Expose-Headers"]
