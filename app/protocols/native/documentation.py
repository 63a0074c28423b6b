"""OpenAPI examples and parameters of `/tts/generate`."""

from collections.abc import Sequence
from typing import Any

import msgspec

from app.core.model import ModelInfo
from app.http.openapi import request_body
from app.protocols.native.schemas import GenerateRequest
from app.settings import Settings
from app.speech.options import json_schema_of

REQUEST_EXAMPLES: dict[str, Any] = {
    "in the default voice": {"text": "Hello, this is the default voice."},
    "in a voice of one's own": {
        "text": "Hello, this is a custom voice.",
        "voice_id": "your_voice.wav",
    },
    "in every respect": {
        "text": "Hello, this is the same every time.",
        "format": "mp3",
        "seed": 7,
        "cfg_guidance_weight": 0.3,
        "synthesis_temperature": 0.7,
        "voice_exaggeration_factor": 0.8,
        "stream": False,
    },
}

_SCHEMA = json_schema_of(GenerateRequest)
_AUDIO = {"200": {"description": "The audio.", "content": {"audio/*": {}}}}

JSON_OPERATION: dict[str, Any] = {
    "responses": _AUDIO,
    "requestBody": request_body("application/json", _SCHEMA, **REQUEST_EXAMPLES),
}
QUERY_OPERATION: dict[str, Any] = {
    "responses": _AUDIO,
    "parameters": [
        {
            "name": name,
            "in": "query",
            "required": name in _SCHEMA["required"],
            "description": schema.get("description", ""),
            "schema": schema,
        }
        for name, schema in _SCHEMA["properties"].items()
    ],
}


def document_settings(
    operations: dict[str, Any], settings: Settings, models: Sequence[ModelInfo]
) -> None:
    """Add the defaults and the maximum text length to the path's schema."""
    defaults = msgspec.structs.asdict(settings.synthesis_params(models[0].defaults))
    del defaults["seed"]
    content = operations["post"]["requestBody"]["content"]["application/json"]
    in_body = content["schema"]["properties"]
    in_query = {one["name"]: one["schema"] for one in operations["get"]["parameters"]}
    for parameters in (in_body, in_query):
        parameters["text"]["x-max-length"] = settings.max_text_length
        for name, default in defaults.items():
            parameters[name]["default"] = default
