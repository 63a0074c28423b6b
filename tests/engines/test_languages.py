import pytest

from app.core.errors import UnsupportedLanguage
from app.engines.chatterbox.variants import MULTILINGUAL
from app.engines.languages import languages_of, resolve_language
from tests.support.engines import ScriptedEngine

ENGLISH_ONLY = {"en": None}
SOME = {"de": None, "ja": "the package pykakasi is missing", "pt": None}


def refusal(tag: str, model: str, languages: dict[str, str | None]) -> str:
    with pytest.raises(UnsupportedLanguage) as error:
        resolve_language(tag, model, languages)
    assert (error.value.code, error.value.param) == ("unsupported_language", "language")
    return error.value.message


def test_case_and_region_are_understood() -> None:
    assert resolve_language("EN", "chatterbox", ENGLISH_ONLY) == "en"
    assert resolve_language("pt_BR", "chatterbox-multilingual", SOME) == "pt"


def test_refusal_names_the_languages_and_the_model_that_speaks_it() -> None:
    assert refusal("de-AT", "chatterbox", ENGLISH_ONLY) == (
        "The model chatterbox does not speak German (de), only: en. "
        "Ask for chatterbox-multilingual, if the setting MODEL has it."
    )
    assert refusal("xx", MULTILINGUAL.id, SOME) == (
        "The model chatterbox-multilingual does not speak 'xx', only: de, pt."
    )


def test_refusal_has_the_reason_why_a_language_is_missing() -> None:
    assert refusal("ja", MULTILINGUAL.id, SOME) == (
        "The model chatterbox-multilingual cannot speak Japanese (ja): "
        "the package pykakasi is missing."
    )


def test_refusal_of_a_long_tag_is_short() -> None:
    assert len(refusal("x" * 10_000, "chatterbox", ENGLISH_ONLY)) < 300


def test_engine_without_languages_speaks_english() -> None:
    assert languages_of(ScriptedEngine) == ENGLISH_ONLY
