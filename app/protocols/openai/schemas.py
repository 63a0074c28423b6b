"""Responses and examples of `/v1`."""

from typing import Any, Literal

from pydantic import BaseModel

REQUEST_EXAMPLES: dict[str, Any] = {
    "as any client": {"model": "tts-1", "voice": "alloy", "input": "Hello there."},
    "in a voice of one's own": {
        "voice": "your_voice",
        "input": "Faster, and with feeling.",
        "response_format": "opus",
        "speed": 1.25,
        "exaggeration": 0.8,
    },
    "as events": {"voice": "alloy", "input": "Hello there.", "stream_format": "sse"},
}

MODEL_EXAMPLE: dict[str, Any] = {
    "id": "chatterbox",
    "object": "model",
    "created": 1748390400,
    "owned_by": "chatterbox-tts-server",
}

EVENTS_EXAMPLE = """\
data: {"type":"speech.audio.delta","audio":"//NkxAAAAANIAAAAAExBTUUz…"}

data: {"type":"speech.audio.done","usage":{"input_tokens":12,"output_tokens":21,"total_tokens":33}}

"""


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


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


class AudioVoices(BaseModel):
    voices: list[Voice]
