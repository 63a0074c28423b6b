"""The table of audio formats and the names that derive from it."""

import re

import pytest

from app.audio.encoder import RawPcmEncoder
from app.audio.formats import FORMAT_OF_NAME, FORMAT_OF_SUFFIX, FORMATS, PCM, new_encoder
from app.core.errors import InvalidRequest
from app.protocols.native.negotiation import negotiate
from app.protocols.native.schemas import from_json
from app.protocols.openai.schemas import from_openai_json
from tests.support.manual import PAGES, section


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_has_file_endings_and_its_media_types(name: str) -> None:
    assert name in FORMAT_OF_SUFFIX.values()
    accepted = FORMATS[name].accept
    assert {negotiate(media_type) for media_type in accepted} <= {name}
    if accepted:
        assert accepted[0] == FORMATS[name].encoder.media_type
        assert f"`{accepted[0]}`" in section("api.md", "Speech")


def test_all_routes_accept_and_name_the_same_formats() -> None:
    for name in FORMAT_OF_NAME:
        for spelt in (name, name.upper()):
            assert from_json({"text": "a", "format": spelt}).format == name
            request = from_openai_json({"input": "a", "response_format": spelt})
            assert request.response_format == name
    refused = []
    for parse, text, param in (
        (from_json, "text", "format"), (from_openai_json, "input", "response_format")
    ):  # fmt: skip
        with pytest.raises(InvalidRequest) as error:
            parse({text: "a", param: "mpga"})
        refused.append(error.value.message.removeprefix(f"'{param}'"))
    assert refused[0] == refused[1]
    assert all(repr(name) in refused[0] for name in FORMAT_OF_NAME)


def test_names_that_others_have_for_a_format_mean_the_same() -> None:
    same = {"mp4": "fmp4", "m4a": "fmp4", "pcm": "raw_pcm", "ogg": "opus"}
    for alias, name in same.items():
        assert type(new_encoder(alias)) is type(new_encoder(name))
    assert new_encoder("pcm", 2).encode(bytes(96_000))
    assert isinstance(new_encoder("pcm"), RawPcmEncoder)


@pytest.mark.parametrize("name", FORMAT_OF_NAME)
def test_the_manual_names_each_format(name: str) -> None:
    for parameter, text in (
        ("format", section("api.md", "Parameters")), ("response_format", PAGES["clients.md"])
    ):  # fmt: skip
        [row] = re.findall(rf"^\| `{parameter}` \|.*", text, re.MULTILINE)
        assert f"`{name}`" in row


def test_raw_pcm_is_the_last_choice_for_a_wildcard() -> None:
    others = {
        form.accept[0]: name for name, form in FORMATS.items() if form.accept and form is not PCM
    }
    assert negotiate(", ".join([*(f"{each};q=0" for each in others), "*/*"])) == "raw_pcm"
    for left, name in others.items():
        refused = [f"{each};q=0" for each in others if each != left]
        assert negotiate(", ".join([*refused, "*/*"])) == name
