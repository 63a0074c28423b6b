"""Voice ids: valid names and their comparison."""

import pytest

from app.core.errors import InvalidVoiceId
from app.core.unicode import nfc
from app.voices.names import (
    MAX_ID_LENGTH,
    casefold_key,
    decode_file_name,
    renamed,
    validate_voice_id,
)

DECOMPOSED, COMPOSED = "e\u0301.wav", "\u00e9.wav"


def test_validate_returns_nfc() -> None:
    assert validate_voice_id(DECOMPOSED) == nfc(DECOMPOSED) == COMPOSED


def test_casefold_key_ignores_case_and_unicode_form() -> None:
    assert casefold_key("E\u0301.WAV") == casefold_key(COMPOSED)


@pytest.mark.parametrize("name", [".a.wav", "a/b.wav", "ä" * 126 + ".wav", "a" * 4000])
def test_rejects_invalid_names(name: str) -> None:
    with pytest.raises(InvalidVoiceId, match=f"at most {MAX_ID_LENGTH} letters"):
        validate_voice_id(name)


@pytest.mark.parametrize("name", ["", "a", "README.md", "a.wav.txt"])
def test_rejects_names_of_other_files(name: str) -> None:
    with pytest.raises(InvalidVoiceId, match=f"'{name}' is not the name of a sound file"):
        validate_voice_id(name)


def test_error_names_the_first_character_that_is_not_allowed() -> None:
    with pytest.raises(InvalidVoiceId, match="no '/'"):
        validate_voice_id("a/b*.wav")


def test_renamed_file_keeps_its_ending() -> None:
    for name, new_id in {"b": "b.WAV", "b.wav": "b.wav", "b.2": "b.2.WAV"}.items():
        assert renamed("a.WAV", name) == new_id
    with pytest.raises(InvalidVoiceId, match=r"The new name of 'a.WAV' ends in \.WAV, or has no "):
        renamed("a.WAV", "b.mp3")


ENCODED = {
    "aiohttp": ("My%20Voice.wav", "My Voice.wav"),
    "aiohttp, not ASCII": ("M%C3%BCller%20%E5%AD%97.wav", "Müller 字.wav"),
    "percent, Latin-1": ("M%FCller.wav", "Müller.wav"),
    "percent beside plain": ("Mü%6cler.wav", "Müller.wav"),
    ".NET": ("=?utf-8?B?TcO8bGxlci53YXY=?=", "Müller.wav"),
    "without its padding": ("=?utf8?b?TcO8bGxlci53YXY?=", "Müller.wav"),
    "Spring": ("=?UTF-8?Q?My_M=C3=BCller.wav?=", "My Müller.wav"),
    "Latin-1 word": ("=?ISO-8859-1?Q?M=FCller?=.wav", "Müller.wav"),
    "two words": ("=?UTF-8?B?TcO8bGxl?= =?UTF-8?Q?r=2Ewav?=", "Müller.wav"),
    "legacy page": ("&#20320;&#x597d;.wav", "你好.wav"),
    "plain": ("Müller 字.wav", "Müller 字.wav"),
}


@pytest.mark.parametrize(("sent", "name"), ENCODED.values(), ids=ENCODED)
def test_a_name_is_decoded_as_its_client_encoded_it(sent: str, name: str) -> None:
    assert validate_voice_id(decode_file_name(sent)) == name


@pytest.mark.parametrize(
    "sent",
    [
        *("a%2Fb.wav", "%2e%2e%2fv.wav", "..%2fv.wav", "%2ev.wav", "v%00.wav", "v%5Cw.wav"),
        *("a%252Fb.wav", "My%2520Voice.wav", "100%.wav", "v%22.wav", "v%0D%0A.wav", "%ZZ.wav"),
        *("=?utf-8?B?Li4vdi53YXY=?=", "=?utf-8?Q?=2E=2E=2Fv.wav?=", "=?utf-8?B?A?=.wav"),
        *("=?utf-8?Q?My%20Voice.wav?=", "=?utf-7?Q?v?=.wav", "=?punycode?Q?v?=.wav", "=?v.wav"),
        *("..&#47;v.wav", "v&#0;.wav", "&#37;41.wav", "a&amp;b.wav", "v&#.wav"),
        "%41" * 2000 + ".wav",
    ],
    ids=lambda sent: sent[:30],
)
def test_a_decoded_name_is_judged_like_any_other(sent: str) -> None:
    with pytest.raises(InvalidVoiceId):
        validate_voice_id(decode_file_name(sent))
