"""The table of audio formats and the names that derive from it."""

import pytest

from app.audio.formats import FORMAT_OF_SUFFIX, FORMATS, OPENAI_FORMATS
from app.protocols.native.negotiation import negotiate
from app.protocols.native.schemas import from_json
from app.protocols.openai.schemas import from_openai_json


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_can_be_requested_and_negotiated(name: str) -> None:
    assert from_json({"text": "a", "format": name}).format == name
    media_types = (FORMATS[name].encoder.media_type, *FORMATS[name].media_types)
    assert {negotiate(media_type) for media_type in media_types} == {name}
    assert name in FORMAT_OF_SUFFIX.values()


@pytest.mark.parametrize("name", OPENAI_FORMATS)
def test_each_openai_format_can_be_requested(name: str) -> None:
    assert from_openai_json({"input": "a", "response_format": name}).response_format == name


def test_raw_pcm_is_the_last_choice_for_a_wildcard() -> None:
    refused = "audio/wav;q=0, audio/mpeg;q=0, audio/mp4;q=0"
    assert negotiate(f"{refused}, */*") == "webm"
    assert negotiate(f"{refused}, audio/webm;q=0, */*") == "raw_pcm"
