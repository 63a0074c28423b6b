"""Voice ids: valid names and their comparison."""

import pytest

from app.core.errors import InvalidVoiceId
from app.core.unicode import nfc
from app.voices.names import MAX_ID_LENGTH, casefold_key, validate_voice_id

DECOMPOSED, COMPOSED = "e\u0301.wav", "\u00e9.wav"


def test_validate_returns_nfc() -> None:
    assert validate_voice_id(DECOMPOSED) == nfc(DECOMPOSED) == COMPOSED


def test_casefold_key_ignores_case_and_unicode_form() -> None:
    assert casefold_key("E\u0301.WAV") == casefold_key(COMPOSED)


@pytest.mark.parametrize("name", ["", "a", ".a.wav", "a/b.wav", "a.txt", "ä" * 126 + ".wav"])
def test_rejects_invalid_names(name: str) -> None:
    with pytest.raises(InvalidVoiceId, match=f"at most {MAX_ID_LENGTH} letters"):
        validate_voice_id(name)


def test_error_names_the_first_character_that_is_not_allowed() -> None:
    with pytest.raises(InvalidVoiceId, match="no '/'"):
        validate_voice_id("a/b*.wav")
