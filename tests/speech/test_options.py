"""Every parameter in JSON and in a query; both are parsed alike."""

from collections.abc import Callable
from typing import Any

import pytest
from starlette.datastructures import QueryParams

from app.core.errors import InvalidRequest
from app.protocols.native.schemas import GenerateRequest, from_json, from_query
from app.protocols.openai.schemas import from_openai_json
from tests.ipc.test_messages import PARAMS

Parse = Callable[[dict[str, Any]], GenerateRequest]

BOUNDS: dict[str, tuple[float, float]] = {
    "cfg_guidance_weight": (0, 3),
    "synthesis_temperature": (0.05, 5),
    "voice_exaggeration_factor": (0, 2),
    "text_processing_chunk_size": (20, 500),
    "audio_tokens_per_slice": (5, 500),
    "remove_leading_milliseconds": (0, 5000),
    "remove_trailing_milliseconds": (0, 5000),
    "crossfade_duration_milliseconds": (0, 500),
    "seed": (0, 2**32 - 1),
    "repetition_penalty": (1, 3),
    "min_p": (0, 1),
    "top_p": (0.001, 1),
    "top_k": (1, 6563),
}
WHOLE_NUMBERS = [name for name, (_, most) in BOUNDS.items() if most > 5]
ALIASES = {
    "cfg_weight": "cfg_guidance_weight",
    "temperature": "synthesis_temperature",
    "exaggeration": "voice_exaggeration_factor",
}


def via_query(values: dict[str, Any]) -> GenerateRequest:
    return from_query(QueryParams({name: str(value) for name, value in values.items()}))


@pytest.fixture(params=[from_json, via_query], ids=["json", "query"])
def parse(request: pytest.FixtureRequest) -> Parse:
    parse: Parse = request.param
    return parse


def refused(parse: Parse, **values: Any) -> str | None:
    """The parameter that the refusal names."""
    with pytest.raises(InvalidRequest) as refusal:
        parse({"text": "x"} | values)
    assert type(refusal.value) is InvalidRequest
    return refusal.value.param


# --- what is accepted -----------------------------------------------------------------------------


def test_text_is_the_only_required_parameter(parse: Parse) -> None:
    wanted = parse({"text": "Hello, world"})
    assert wanted.text == "Hello, world"
    assert wanted.stream
    assert wanted.params(PARAMS) == PARAMS


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_are_inclusive(parse: Parse, name: str) -> None:
    for bound in BOUNDS[name]:
        wanted = parse({"text": "x", name: bound})
        assert getattr(wanted.params(PARAMS), name) == bound


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_accepts_parameter_names_of_other_servers(parse: Parse, alias: str, name: str) -> None:
    assert getattr(parse({"text": "x", alias: 1.5}), name) == 1.5


def test_accepts_the_settings_name_of_the_overlap_method(parse: Parse) -> None:
    assert parse({"text": "x", "chunk_overlap_strategy": "zero"}).chunk_overlap_method == "zero"


@pytest.mark.parametrize("name", ["wav", "mp3", "fmp4", "raw_pcm", "webm"])
def test_every_format_can_be_asked_for(parse: Parse, name: str) -> None:
    for written in (name, name.upper()):
        assert parse({"text": "x", "format": written}).format == name


def test_null_means_absent() -> None:
    names = [*BOUNDS, "voice_id", "format", "chunk_overlap_method"]
    wanted = from_json({"text": "x"} | dict.fromkeys(names))
    assert wanted == from_json({"text": "x"})


def test_a_stream_can_be_declined() -> None:
    assert not from_json({"text": "x", "stream": False}).stream
    assert not from_query(QueryParams("text=x&stream=false")).stream


def test_the_key_in_a_query_is_not_a_parameter() -> None:
    assert from_query(QueryParams("text=x&api_key=secret")).text == "x"
    assert refused(from_json, api_key="secret") == "api_key"


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOUNDS)
def test_rejects_values_out_of_bounds_by_name(parse: Parse, name: str) -> None:
    least, most = BOUNDS[name]
    step = 1 if name in WHOLE_NUMBERS else 0.01
    for value in (least - step, most + step, -1e30, 1e30):
        assert refused(parse, **{name: value}) == name


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "loud", "", "0x10", "1_0", "[1]"])
def test_rejects_non_numbers_by_name(parse: Parse, name: str, value: str) -> None:
    assert refused(parse, **{name: value}) == name


@pytest.mark.parametrize("name", WHOLE_NUMBERS)
@pytest.mark.parametrize("value", [30.0, 30.5, 1e2])
def test_rejects_fractions_for_integers(parse: Parse, name: str, value: float) -> None:
    assert refused(parse, **{name: value}) == name


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("value", [True, "1", [1], {"a": 1}, float("inf"), float("nan")])
def test_json_is_validated_strictly(name: str, value: Any) -> None:
    assert refused(from_json, **{name: value}) == name


def test_a_text_is_required(parse: Parse) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse({})
    assert refusal.value.param == "text"


@pytest.mark.parametrize("name", ["text", "voice_id", "format", "chunk_overlap_method"])
@pytest.mark.parametrize("value", [7, True, ["x"], {"ssml": "x"}])
def test_rejects_other_types_for_strings(name: str, value: Any) -> None:
    assert refused(from_json, **{name: value}) == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("format", value) for value in ("oga", "audio/wav", "../wav", "")),
        *(("chunk_overlap_method", value) for value in ("half", "", "FULL")),
        ("chunk_overlap_strategy", "half"),
    ],
)
def test_rejects_other_choices(parse: Parse, name: str, value: str) -> None:
    assert refused(parse, **{name: value}) == name


@pytest.mark.parametrize("value", [0, 1, "false"])
def test_rejects_other_types_for_booleans_in_json(value: Any) -> None:
    assert refused(from_json, stream=value) == "stream"


@pytest.mark.parametrize("value", ["0", "1", "yes", "True", ""])
def test_booleans_in_a_query_are_written_as_in_json(value: str) -> None:
    assert refused(via_query, stream=value) == "stream"


@pytest.mark.parametrize(
    ("written", "suggestion"),
    [
        ("pitch", ""),
        ("voice", " Is 'voice_id' meant?"),
        ("Format", " Is 'format' meant?"),
        ("temprature", " Is 'temperature' meant?"),
    ],
)
def test_unknown_parameter_is_refused_with_a_similar_name(
    parse: Parse, written: str, suggestion: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse({"text": "x", written: 1})
    assert refusal.value.message == f"There is no parameter '{written}'.{suggestion}"
    assert refusal.value.param == written


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"text": None}, "'text' must be text."),
        ({"seed": "loud"}, "'seed' must be a whole number."),
        ({"seed": -1}, "'seed' must be at least 0."),
        ({"top_p": 0}, "'top_p' must be more than 0."),
        ({"min_p": 2}, "'min_p' must be at most 1."),
        ({"min_p": float("nan")}, "'min_p' must be a number."),
        ({"stream": "no"}, "'stream' must be true or false."),
        ({"chunk_overlap_method": "half"}, "'chunk_overlap_method' must be 'full' or 'zero'."),
    ],
)
def test_rejections_are_plain_sentences(value: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        from_json({"text": "x"} | value)
    assert refusal.value.message == words


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_rejects_a_parameter_together_with_its_alias(parse: Parse, alias: str, name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^'{alias}' is another name of '{name}'"):
        parse({"text": "x", alias: 1, name: 1})
    assert refused(parse, **{alias: 1, name: 1}) == alias


def test_a_parameter_given_twice_in_a_query_is_refused() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        from_query(QueryParams("text=x&seed=1&seed=1"))
    assert refusal.value.param == "seed"


# --- OpenAI's words -------------------------------------------------------------------------------


def openai_refused(**values: Any) -> str | None:
    """The parameter that the refusal names."""
    with pytest.raises(InvalidRequest) as refusal:
        from_openai_json({"input": "x"} | values)
    return refusal.value.param


def test_input_is_the_only_required_parameter_and_null_means_absent() -> None:
    wanted = from_openai_json({"input": "Hello"})
    assert (wanted.input, wanted.voice, wanted.response_format) == ("Hello", None, "mp3")
    assert (wanted.speed, wanted.stream_format, wanted.stream) == (1, "audio", True)
    assert wanted.params(PARAMS) == PARAMS
    nulls = dict.fromkeys(type(wanted).model_fields)
    assert from_openai_json(nulls | {"input": "Hello"}) == wanted
    assert openai_refused(input=None) == "input"


@pytest.mark.parametrize("name", BOUNDS)
def test_openai_route_accepts_all_options_with_their_bounds(name: str) -> None:
    for bound in BOUNDS[name]:
        assert getattr(from_openai_json({"input": "x", name: bound}).params(PARAMS), name) == bound
    assert openai_refused(**{name: BOUNDS[name][1] + 1}) == name


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_openai_route_accepts_short_parameter_names(alias: str, name: str) -> None:
    assert getattr(from_openai_json({"input": "x", alias: 1}).params(PARAMS), name) == 1
