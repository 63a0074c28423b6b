import pytest

from app.core.errors import NotAcceptable
from app.protocols.native.negotiation import negotiate

FIREFOX_AUDIO = "audio/webm,audio/ogg,audio/wav,audio/*;q=0.9,application/ogg;q=0.7,*/*;q=0.5"
CHROMIUM_PAGE = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "made"),
    [
        ("audio/wav", "wav"),
        ("audio/mpeg", "mp3"),
        ("audio/mp4", "fmp4"),
        ("audio/webm", "webm"),
        ("audio/pcm", "raw_pcm"),
        ("*/*", "wav"),
        ("audio/*", "wav"),
        ("", "wav"),
        (" , ", "wav"),
        (CHROMIUM_PAGE, "wav"),
    ],
)
def test_a_type_has_its_format(accept: str, made: str) -> None:
    assert negotiate(accept) == made


@pytest.mark.parametrize(
    ("accept", "made"),
    [
        ("audio/wav;q=0.5, audio/mpeg;q=0.9", "mp3"),
        ("*/*;q=0.1, audio/webm", "webm"),
        ("audio/mpeg; q=0, audio/mp4; q=0.001", "fmp4"),
        ("audio/mpeg;q=high, audio/mp4;q=0.2", "fmp4"),
        (FIREFOX_AUDIO, "webm"),
        ("audio/wav;q=0, */*", "mp3"),
    ],
)
def test_the_type_with_the_highest_quality_is_chosen(accept: str, made: str) -> None:
    assert negotiate(accept) == made


def test_the_first_of_equal_quality_is_chosen() -> None:
    assert negotiate("audio/mp4, audio/mpeg") == "fmp4"
    assert negotiate("audio/mpeg;q=0.5, audio/mp4;q=0.5") == "mp3"


def test_unsupported_types_are_skipped() -> None:
    assert negotiate("audio/ogg, audio/flac, audio/mpeg;q=0.1") == "mp3"


def test_case_and_parameters_do_not_matter() -> None:
    assert negotiate("Audio/MPEG; charset=none; Q=0.4") == "mp3"
    assert negotiate("audio/pcm;rate=24000;channels=1") == "raw_pcm"


@pytest.mark.parametrize(
    "accept", ["text/html", "application/json, image/png", "audio/ogg", "audio/wav;q=0", "nonsense"]
)
def test_header_with_only_unsupported_types_is_refused(accept: str) -> None:
    with pytest.raises(NotAcceptable) as refusal:
        negotiate(accept)
    assert "audio/wav, audio/mpeg, audio/mp4, audio/webm, audio/pcm." in refusal.value.message
