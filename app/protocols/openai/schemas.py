"""Requests and responses of `/v1`: OpenAI's parameters with the service's own options, lists."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from app.audio.formats import FormatName
from app.speech.options import SpeechOptions, lower, validated


def _voice_name(voice: Any) -> Any:
    """Unwrap `{"id": …}`, as OpenAI's clients write voices that are not built in.

    A blank name becomes None: clients send it when no voice is selected.
    """
    match voice:
        case {"id": str(voice_id)}:
            voice = voice_id
    return None if isinstance(voice, str) and not voice.strip() else voice


def _allow_null(schema: dict[str, Any]) -> None:
    """Allow null for optional parameters: `from_openai_json` treats it as absent."""
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
    """A text and how to speak it, in OpenAI's terms. Unknown keys are ignored: clients add some."""

    model_config = ConfigDict(extra="ignore", json_schema_extra=_allow_null)

    input: Annotated[str, Field(description="The text to be spoken.", examples=["Hello there."])]
    model: Annotated[
        str | None,
        Field(
            None,
            description="One of `GET /v1/models`; OpenAI's names mean the first of `MODEL`.",
        ),
    ]
    voice: Annotated[
        str | None,
        BeforeValidator(_voice_name),
        WithJsonSchema(_VOICE_SCHEMA),
        Field(
            None,
            description="A voice that `GET /v1/audio/voices` lists, with or without its ending; "
            "OpenAI's names mean the default voice, unless `VOICE_ALIASES` says otherwise.",
        ),
    ]
    response_format: Annotated[
        FormatName,
        BeforeValidator(lower),
        Field("mp3", description="The audio format; `pcm` is 16-bit mono at 24 kHz."),
    ]
    stream_format: Annotated[
        Literal["audio", "sse"],
        Field("audio", description="`sse`: events, with the audio in base64."),
    ]
    instructions: Annotated[str | None, Field(None, description="Accepted, and ignored.")]


def from_openai_json(values: dict[str, Any]) -> OpenAISpeechRequest:
    """As strict as `from_json` of `/tts/generate`, but null means absent."""
    present = {name: value for name, value in values.items() if value is not None}
    return validated(OpenAISpeechRequest, present)


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    root: str
    languages: list[str]
    tags: list[str]
    defaults: dict[str, Any]
    unused: list[str]


class Models(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class ModelId(BaseModel):
    id: str


class AudioModels(BaseModel):
    models: list[ModelId]


class Voice(BaseModel):
    id: str
    name: str
    language: str | None


class AudioVoices(BaseModel):
    voices: list[Voice]
