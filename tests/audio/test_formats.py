"""The table of audio formats and the names that derive from it."""

import re

import pytest

from app.audio.formats import FORMAT_OF_SUFFIX, FORMATS, OPENAI_FORMATS, PCM
from app.protocols.native.negotiation import negotiate
from app.protocols.native.schemas import from_json
from app.protocols.openai.schemas import from_openai_json
from tests.support.manual import PAGES, section


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_can_be_requested_and_negotiated(name: str) -> None:
    assert from_json({"text": "a", "format": name}).format == name
    media_types = (FORMATS[name].encoder.media_type, *FORMATS[name].media_types)
    assert {negotiate(media_type) for media_type in media_types} == {name}
    assert name in FORMAT_OF_SUFFIX.values()


@pytest.mark.parametrize("name", OPENAI_FORMATS)
def test_each_openai_format_can_be_requested(name: str) -> None:
    assert from_openai_json({"input": "a", "response_format": name}).response_format == name


@pytest.mark.parametrize("name", FORMATS)
def test_the_manual_names_each_format(name: str) -> None:
    [row] = re.findall(r"^\| `format` \|.*", section("api.md", "Parameters"), re.MULTILINE)
    assert f"`{name}`" in row
    assert f"`{FORMATS[name].encoder.media_type}`" in section("api.md", "Speech")


@pytest.mark.parametrize("name", OPENAI_FORMATS)
def test_the_manual_names_each_openai_format(name: str) -> None:
    [row] = re.findall(r"^\| `response_format` \|.*", PAGES["clients.md"], re.MULTILINE)
    assert f"`{name}`" in row


def test_raw_pcm_is_the_last_choice_for_a_wildcard() -> None:
    others = {form.encoder.media_type: name for name, form in FORMATS.items() if form is not PCM}
    assert negotiate(", ".join([*(f"{each};q=0" for each in others), "*/*"])) == "raw_pcm"
    for left, name in others.items():
        refused = [f"{each};q=0" for each in others if each != left]
        assert negotiate(", ".join([*refused, "*/*"])) == name
