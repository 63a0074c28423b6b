"""The language of a voice: in the lists of voices, and in the speech of each model."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.contract.test_language import ask, each_route
from tests.support.api import SPEECH, error_code, upload, wav
from tests.support.contract import ContractService
from tests.support.fake_backend import MODEL
from tests.support.service import ROOT

SETTINGS = {"default_language": "de", "voice_aliases": {"nova": "ana.pt-BR.wav"}}
POLYGLOT = type(MODEL)(
    MODEL.name,
    languages={"en": None, "de": None, "pt": None, "ja": "pykakasi is not installed"},
    foreign_voice_defaults={"cfg_guidance_weight": 0.0},
)
GERMAN = type(MODEL)(MODEL.name, languages={"de": None})
VOICES = {"ana.pt-BR.wav": "pt", "hans.de.wav": "de", "yuki.ja.wav": "ja", "plain.wav": None}
BY_NAME = "spoken in {}, the language of the voice"
LESS_ACCENT = "the voice is {}, the text {}: cfg_guidance_weight is 0, for less accent"


@pytest.fixture(scope="module")
def voices(service: ContractService, client: httpx.Client) -> None:
    for number, name in enumerate(VOICES):
        upload(client, name, wav(1 + number / 10)).raise_for_status()


@pytest.fixture
def polyglot(service: ContractService, voices: None) -> Iterator[ContractService]:
    service.backend.model = POLYGLOT
    yield service
    service.backend.model = MODEL


def spoken(
    service: ContractService, client: httpx.Client, route: str, voice: str, **asked: Any
) -> tuple[str, float, str | None]:
    """Language and guidance of the job, and the notice."""
    name = "voice" if route == "OpenAI" else "voice_id"
    answer = ask(client, route, **{name: voice}, **asked).raise_for_status()
    params = service.backend.jobs[-1].params
    return params.language, params.cfg_guidance_weight, answer.headers.get("X-TTS-Notice")


def test_lists_show_the_language(client: httpx.Client, voices: None) -> None:
    assert client.get("/voices").json() == sorted(VOICES)
    detailed = client.get("/voices", params={"details": "true"}).json()
    assert detailed == [
        {"voice_id": voice_id, "language": VOICES[voice_id], "preloaded": False}
        for voice_id in sorted(VOICES)
    ]
    assert client.get("/voices?details=true&preloaded=true").json() == []
    assert error_code(client.get("/voices?details=some"), 400) == "invalid_request"
    listed = client.get("/v1/audio/voices").json()["voices"]
    languages = {each["id"]: each["language"] for each in listed}
    assert languages == VOICES | {"nova": "pt", "alloy": None}


@each_route
def test_voice_is_spoken_in_its_language(
    polyglot: ContractService, client: httpx.Client, route: str
) -> None:
    assert spoken(polyglot, client, route, "ana.pt-BR.wav") == (
        *("pt", 0.5),
        BY_NAME.format("Portuguese"),
    )
    assert spoken(polyglot, client, route, "hans.de.wav") == ("de", 0.5, None)
    assert spoken(polyglot, client, route, "plain.wav") == ("de", 0.5, None)
    assert spoken(polyglot, client, route, "plain.wav", language="en") == ("en", 0.5, None)


def test_name_without_ending_has_the_language(
    polyglot: ContractService, client: httpx.Client
) -> None:
    assert spoken(polyglot, client, "POST", "ana.pt-BR")[0] == "pt"


def test_preloaded_voice_has_an_accent_and_speaks_the_default_language(
    polyglot: ContractService, client: httpx.Client
) -> None:
    content = (ROOT / "preloaded-voices" / "austen.wav").read_bytes()
    upload(client, "jane.wav", content).raise_for_status()
    notice = LESS_ACCENT.format("English", "German")
    assert spoken(polyglot, client, "POST", "jane.wav") == ("de", 0, notice)
    assert spoken(polyglot, client, "POST", "jane.wav", language="en") == ("en", 0.5, None)
    client.delete("/voices/jane.wav").raise_for_status()


def test_alias_has_the_language_of_its_voice(
    polyglot: ContractService, client: httpx.Client
) -> None:
    assert spoken(polyglot, client, "OpenAI", "nova")[0] == "pt"


@each_route
def test_text_in_another_language_is_spoken_without_guidance(
    polyglot: ContractService, client: httpx.Client, route: str
) -> None:
    notice = LESS_ACCENT.format("Portuguese", "English")
    assert spoken(polyglot, client, route, "ana.pt-BR.wav", language="en") == ("en", 0, notice)
    assert spoken(polyglot, client, route, "ana.pt-BR.wav", language="PT") == ("pt", 0.5, None)


@pytest.mark.parametrize("name", ["cfg_weight", "cfg_guidance_weight"])
def test_guidance_in_the_request_stays(
    polyglot: ContractService, client: httpx.Client, name: str
) -> None:
    for weight in (0.7, 0):
        asked = {"text": "audio1", "voice_id": "hans.de.wav", "language": "en", name: weight}
        answer = client.post(SPEECH, json=asked).raise_for_status()
        assert polyglot.backend.jobs[-1].params.cfg_guidance_weight == weight
        assert "X-TTS-Notice" not in answer.headers


def test_language_that_the_model_cannot_speak_refuses_nothing(
    polyglot: ContractService, client: httpx.Client
) -> None:
    notice = LESS_ACCENT.format("Japanese", "German")
    assert spoken(polyglot, client, "GET", "yuki.ja.wav") == ("de", 0, notice)
    polyglot.backend.model = GERMAN
    assert spoken(polyglot, client, "GET", "ana.pt-BR.wav") == ("de", 0.5, None)
    refused = ask(client, "GET", voice_id="ana.pt-BR.wav", language="pt")
    assert error_code(refused, 400) == "unsupported_language"


def test_head_has_the_notice(polyglot: ContractService, client: httpx.Client) -> None:
    asked = {"text": "a", "voice_id": "hans.de.wav", "language": "en"}
    notice = client.head(SPEECH, params=asked).raise_for_status().headers["X-TTS-Notice"]
    assert notice == LESS_ACCENT.format("German", "English")
