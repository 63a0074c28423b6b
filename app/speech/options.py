"""What routes that speak accept, and what becomes of it.

`/tts/generate` takes a `SpeechRequest`, in a query or in JSON, `/v1/audio/speech` an
`OpenAISpeechRequest`; how a text may be spoken is the same for both.
"""

import difflib
import json
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)
from starlette.datastructures import QueryParams

from app.audio.formats import FormatName, OpenAIFormatName
from app.core.errors import InvalidRequest
from app.core.params import (
    CrossfadeMilliseconds,
    Exaggeration,
    GuidanceWeight,
    OverlapMethod,
    SliceTokens,
    SynthesisParams,
    Temperature,
    TextChunkSize,
    TrimMilliseconds,
)
from app.core.validation import describe_error

M = TypeVar("M", bound=BaseModel)


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _id_of(voice: Any) -> Any:
    """As OpenAI's clients write a voice that is not built in: `{"id": …}`."""
    match voice:
        case {"id": str(voice_id)}:
            return voice_id
    return voice


def _also(name: str, *aliases: str) -> AliasChoices:
    return AliasChoices(name, *aliases)


class SpeechOptions(BaseModel):
    """How a text is to be spoken; what is left out comes from the settings."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    cfg_guidance_weight: Annotated[
        GuidanceWeight | None,
        Field(
            None,
            validation_alias=_also("cfg_guidance_weight", "cfg_weight"),
            description="Classifier-free guidance: higher values follow the text more closely, "
            "but can sound less natural.",
        ),
    ]
    synthesis_temperature: Annotated[
        Temperature | None,
        Field(
            None,
            validation_alias=_also("synthesis_temperature", "temperature"),
            description="Randomness: higher values are more varied, lower ones more even.",
        ),
    ]
    voice_exaggeration_factor: Annotated[
        Exaggeration | None,
        Field(
            None,
            validation_alias=_also("voice_exaggeration_factor", "exaggeration"),
            description="Expressiveness of the voice.",
        ),
    ]
    text_processing_chunk_size: Annotated[
        TextChunkSize | None,
        Field(
            None,
            description="Characters per text chunk, at most. Smaller values can reduce latency "
            "but may affect prosody.",
        ),
    ]
    audio_tokens_per_slice: Annotated[
        SliceTokens | None,
        Field(
            None,
            description="Speech tokens (40 ms each) per slice of audio: the grain of the stream.",
        ),
    ]
    remove_leading_milliseconds: Annotated[
        TrimMilliseconds | None,
        Field(None, description="Trimmed from the start of each text chunk's audio."),
    ]
    remove_trailing_milliseconds: Annotated[
        TrimMilliseconds | None,
        Field(None, description="Trimmed from the end of each text chunk's audio."),
    ]
    chunk_overlap_method: Annotated[
        OverlapMethod | None,
        Field(
            None,
            validation_alias=_also("chunk_overlap_method", "chunk_overlap_strategy"),
            description="`full`: seamless; `zero`: everything is simply concatenated.",
        ),
    ]
    crossfade_duration_milliseconds: Annotated[
        CrossfadeMilliseconds | None,
        Field(
            None,
            description="Length of the crossfade between text chunks, and between Chatterbox's "
            "slices.",
        ),
    ]
    seed: Annotated[
        int | None,
        Field(
            None, ge=0, le=2**32 - 1, description="The same seed gives the same audio (on a CPU)."
        ),
    ]
    repetition_penalty: Annotated[
        float | None, Field(None, ge=1, le=3, description="Discourages repeated speech tokens.")
    ]
    min_p: Annotated[
        float | None,
        Field(
            None,
            ge=0,
            le=1,
            description="Drops tokens less likely than this share of the likeliest.",
        ),
    ]
    top_p: Annotated[
        float | None,
        Field(
            None,
            gt=0,
            le=1,
            description="Keeps the likeliest tokens that make up this probability.",
        ),
    ]
    stream: Annotated[
        bool, Field(True, description="False: the whole file at once, with its true size.")
    ]

    def params(self, defaults: SynthesisParams) -> SynthesisParams:
        """`defaults`, with what was asked for in their place."""
        asked = {name: getattr(self, name) for name in SynthesisParams.__struct_fields__}
        given = {name: value for name, value in asked.items() if value is not None}
        return msgspec.structs.replace(defaults, **given)


class SpeechRequest(SpeechOptions):
    """A text and how to speak it, in the service's own words."""

    text: Annotated[
        str, Field(description="The text to be spoken.", examples=["Hello, this is a voice."])
    ]
    voice_id: Annotated[
        str | None,
        Field(None, description="A voice that `GET /voices` lists; the default voice if absent."),
    ]
    format: Annotated[
        FormatName | None,
        BeforeValidator(_lower),
        Field(None, description="The audio format; overrides the `Accept` header."),
    ]


def _allow_null(schema: dict[str, Any]) -> None:
    """Where something may be left out: `from_openai_json` makes no difference."""
    for name, own in schema["properties"].items():
        if name not in schema["required"] and "anyOf" not in own:
            schema["properties"][name] = {"anyOf": [own, {"type": "null"}]}


_VOICE_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
        {"type": "null"},
    ]
}


class OpenAISpeechRequest(SpeechOptions):
    """A text and how to speak it, in OpenAI's words; clients add keys of their own."""

    model_config = ConfigDict(extra="ignore", json_schema_extra=_allow_null)

    input: Annotated[str, Field(description="The text to be spoken.", examples=["Hello there."])]
    model: Annotated[
        str | None, Field(None, description="Any name: there is one model, which answers to all.")
    ]
    voice: Annotated[
        str | None,
        BeforeValidator(_id_of),
        WithJsonSchema(_VOICE_SCHEMA),
        Field(
            None,
            description="A voice that `GET /v1/audio/voices` lists, with or without its ending; "
            "OpenAI's names mean the default voice, unless `VOICE_ALIASES` says otherwise.",
        ),
    ]
    response_format: Annotated[
        OpenAIFormatName,
        BeforeValidator(_lower),
        Field("mp3", description="The audio format; `pcm` is 16-bit mono at 24 kHz."),
    ]
    speed: Annotated[
        float, Field(1.0, ge=0.25, le=4, description="How many times as fast; the pitch stays.")
    ]
    stream_format: Annotated[
        Literal["audio", "sse"],
        Field("audio", description="`sse`: events, with the audio in base64."),
    ]
    instructions: Annotated[str | None, Field(None, description="Accepted, and ignored.")]


def json_schema_of(model: type[SpeechOptions]) -> dict[str, Any]:
    """For the documentation: of all fields, the model's own come first."""
    schema = model.model_json_schema(by_alias=False)
    properties = schema["properties"]
    own = {name: properties[name] for name in properties if name in model.__annotations__}
    return schema | {"properties": own | properties}


def from_json(values: dict[str, Any]) -> SpeechRequest:
    """Strict: no strings or booleans for numbers. Raises `InvalidRequest` naming the parameter."""
    return _validated(SpeechRequest, values)


def from_openai_json(values: dict[str, Any]) -> OpenAISpeechRequest:
    """As `from_json`, but null is as good as absent."""
    given = {name: value for name, value in values.items() if value is not None}
    return _validated(OpenAISpeechRequest, given)


_WORDS = {"text", "voice_id", "format", "chunk_overlap_method", "chunk_overlap_strategy"}
"""What is text in a query; all else is written there as in JSON."""


def from_query(query: QueryParams) -> SpeechRequest:
    """As `from_json`, and exactly as strict; `api_key` is none of its business."""
    values: dict[str, Any] = {}
    for name, value in query.multi_items():
        if name in values:
            raise InvalidRequest(f"{name!r} is given twice.", param=name)
        if name != "api_key":
            values[name] = value if name in _WORDS else _as_json(value)
    return from_json(values)


_NAME_OF_ALIAS = {
    alias: name
    for name, field in SpeechRequest.model_fields.items()
    if isinstance(field.validation_alias, AliasChoices)
    for alias in field.validation_alias.choices
    if alias != name
}


def _as_json(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value  # no number, no boolean: to be refused by name


def _validated(model: type[M], values: dict[str, Any]) -> M:
    try:
        return model.model_validate(values, strict=True)
    except ValidationError as error:
        raise _complaint(error) from None


def _complaint(error: ValidationError) -> InvalidRequest:
    first = error.errors(include_url=False, include_input=False)[0]
    if not first["loc"]:
        return InvalidRequest("The name of each parameter must be text.")
    param = str(first["loc"][0])
    if first["type"] != "extra_forbidden":
        message = f"{param!r} {describe_error(first)}."
    elif name := _NAME_OF_ALIAS.get(param):
        message = f"{param!r} is another name of {name!r}, given twice."
    else:
        message = f"There is no parameter {param!r}.{_meant(param)}"
    return InvalidRequest(message, param=param)


_LONGEST_GUESS = 64  # as a longer one takes longer


def _meant(param: str) -> str:
    """The question whether it is a known one misspelt, if one is near."""
    known = [*SpeechRequest.model_fields, *map(str, _NAME_OF_ALIAS)]
    near = difflib.get_close_matches(param[:_LONGEST_GUESS].lower(), known, n=1)
    return f" Is {near[0]!r} meant?" if near else ""
