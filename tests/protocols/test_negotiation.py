import pytest

from app.core.errors import NotAcceptable
from app.protocols.native.negotiation import negotiate

FIREFOX_AUDIO = "audio/webm,audio/ogg,audio/wav,audio/*;q=0.9,application/ogg;q=0.7,*/*;q=0.5"
CHROMIUM_PAGE = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "format_name"),
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
        # the highest quality
        ("audio/wav;q=0.5, audio/mpeg;q=0.9", "mp3"),
        ("*/*;q=0.1, audio/webm", "webm"),
        ("audio/mpeg; q=0, audio/mp4; q=0.001", "fmp4"),
        ("audio/mpeg;q=high, audio/mp4;q=0.2", "fmp4"),
        (FIREFOX_AUDIO, "webm"),
        ("audio/wav;q=0, */*", "mp3"),
        # the first of equal quality
        ("audio/mp4, audio/mpeg", "fmp4"),
        ("audio/mpeg;q=0.5, audio/mp4;q=0.5", "mp3"),
        # unsupported types, case and parameters
        ("audio/ogg, audio/flac, audio/mpeg;q=0.1", "mp3"),
        ("Audio/MPEG; charset=none; Q=0.4", "mp3"),
        ("audio/pcm;rate=24000;channels=1", "raw_pcm"),
        # curl --json
        ("application/json", "wav"),
    ],
)
def test_accepted_type_of_the_highest_quality_is_chosen(accept: str, format_name: str) -> None:
    assert negotiate(accept) == format_name


@pytest.mark.parametrize(
    "accept", ["text/html", "application/json, image/png", "audio/ogg", "audio/wav;q=0", "nonsense"]
)
def test_header_with_only_unsupported_types_is_refused(accept: str) -> None:
    with pytest.raises(NotAcceptable) as refusal:
        negotiate(accept)
    assert "audio/wav, audio/mpeg, audio/mp4, audio/webm, audio/pcm." in refusal.value.message
