"""The parameters of `/tts/generate`, from a query or a JSON body."""

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field
from starlette.datastructures import QueryParams

from app.audio.formats import FormatName
from app.core.errors import InvalidRequest
from app.core.validation import shortened
from app.speech.options import SpeechOptions, lower, query_value, validated

_TEXT_PARAMETERS = {"text", "voice_id", "format", "model"}

MAX_PARAMETERS = 100
"""In a query: more than all that there are."""


class GenerateRequest(SpeechOptions):
    """A text, voice and format, with the options of speech."""

    model_config = ConfigDict(title="SpeechRequest")

    text: Annotated[
        str, Field(description="The text to be spoken.", examples=["Hello, this is a voice."])
    ]
    voice_id: Annotated[
        str | None,
        Field(None, description="A voice that `GET /voices` lists; the default voice if absent."),
    ]
    model: Annotated[
        str | None,
        Field(None, description="A model of `GET /v1/models`; the first of `MODEL` if absent."),
    ]
    format: Annotated[
        FormatName | None,
        BeforeValidator(lower),
        Field(None, description="The audio format; overrides the `Accept` header."),
    ]


def from_json(values: dict[str, Any]) -> GenerateRequest:
    """Strict: no strings or booleans for numbers. Raises `InvalidRequest` naming the parameter."""
    return validated(GenerateRequest, values)


def from_query(query: QueryParams) -> GenerateRequest:
    """As strict as `from_json`; ignores `api_key`, which authentication reads."""
    values: dict[str, Any] = {}
    items = query.multi_items()
    if len(items) > MAX_PARAMETERS:
        raise InvalidRequest(f"A query may have at most {MAX_PARAMETERS} parameters.")
    for name, value in items:
        if name in values:
            name = shortened(name)
            raise InvalidRequest(f"{name!r} is given twice.", param=name)
        if name != "api_key":
            values[name] = value if name in _TEXT_PARAMETERS else query_value(name, value)
    return from_json(values)
