"""The parameter `language` on every speech route, and `DEFAULT_LANGUAGE`."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.api import SPEECH, refusal
from tests.support.contract import ContractService, contract_service
from tests.support.fake_backend import MODEL

OPENAI = "/v1/audio/speech"
LANGUAGES = {"en": None, "de": None, "pt": None, "ja": "the package pykakasi is missing"}


@pytest.fixture(scope="module")
def polyglot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContractService]:
    with contract_service(tmp_path_factory.mktemp("polyglot"), default_language="DE") as service:
        service.backend.model = type(MODEL)(
            MODEL.name, clones_voices=True, compiled=False, notice=None, languages=LANGUAGES
        )
        yield service


@pytest.fixture
def speaks(polyglot: ContractService) -> Iterator[httpx.Client]:
    with polyglot.client() as client:
        yield client


def ask(client: httpx.Client, route: str, **parameters: str) -> httpx.Response:
    match route:
        case "GET":
            return client.get(SPEECH, params={"text": "audio1"} | parameters)
        case "POST":
            return client.post(SPEECH, json={"text": "audio1"} | parameters)
        case _:
            return client.post(OPENAI, json={"input": "audio1"} | parameters)


each_route = pytest.mark.parametrize("route", ["GET", "POST", "OpenAI"])


@each_route
@pytest.mark.parametrize(
    ("asked", "spoken"), [("en", "en"), ("EN", "en"), ("pt-BR", "pt"), ("de_AT", "de")]
)
def test_language_reaches_the_job(
    polyglot: ContractService, speaks: httpx.Client, route: str, asked: str, spoken: str
) -> None:
    assert ask(speaks, route, language=asked).status_code == 200
    assert polyglot.backend.jobs[-1].params.language == spoken


@each_route
def test_default_language_is_spoken_without_the_parameter(
    polyglot: ContractService, speaks: httpx.Client, route: str
) -> None:
    assert ask(speaks, route).status_code == 200
    assert polyglot.backend.jobs[-1].params.language == "de"


@pytest.mark.fault(63)
@each_route
@pytest.mark.parametrize(
    ("language", "reason"),
    [
        ("fr", "The model scripted does not speak French (fr), only: en, de, pt."),
        ("ja", "The model scripted cannot speak Japanese (ja): the package pykakasi is missing."),
        ("", "The model scripted does not speak '', only: en, de, pt."),
    ],
)
def test_other_languages_are_refused_before_a_job(
    polyglot: ContractService, speaks: httpx.Client, route: str, language: str, reason: str
) -> None:
    before = len(polyglot.backend.jobs)
    error = refusal(ask(speaks, route, language=language))
    assert (error["code"], error["param"]) == ("unsupported_language", "language")
    assert error["message"].startswith(reason)
    assert len(polyglot.backend.jobs) == before


@pytest.mark.fault(63)
@each_route
def test_unknown_model_is_refused_before_a_job(
    polyglot: ContractService, speaks: httpx.Client, route: str
) -> None:
    before = len(polyglot.backend.jobs)
    error = refusal(ask(speaks, route, model="chatterbox-turbo"), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert error["message"] == (
        "There is no model 'chatterbox-turbo', only: scripted. 'chatterbox-tts models download "
        "turbo' fetches it, and MODEL=turbo starts it."
    )
    assert len(polyglot.backend.jobs) == before


def test_head_refuses_as_get_does(speaks: httpx.Client) -> None:
    assert speaks.head(SPEECH, params={"text": "a", "language": "pt-PT"}).status_code == 200
    assert speaks.head(SPEECH, params={"text": "a", "language": "fr"}).status_code == 400


def test_default_language_that_the_model_does_not_speak_is_refused(tmp_path: Path) -> None:
    with contract_service(tmp_path, default_language="de") as service, service.client() as client:
        message = refusal(ask(client, "GET"))["message"]
        assert message.startswith("The model scripted does not speak German (de), only: en.")
        assert ask(client, "GET", language="en").status_code == 200
