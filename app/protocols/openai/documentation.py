"""OpenAPI examples and operation of `/v1/audio/speech`."""

from typing import Any

from app.http.openapi import request_body
from app.protocols.openai.schemas import OpenAISpeechRequest
from app.speech.options import json_schema_of

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

EVENTS_EXAMPLE = """\
data: {"type":"speech.audio.delta","audio":"//NkxAAAAANIAAAAAExBTUUz…"}

data: {"type":"speech.audio.done","usage":{"input_tokens":12,"output_tokens":21,"total_tokens":33}}

"""

SPEECH_OPERATION: dict[str, Any] = {
    "responses": {
        "200": {
            "description": "The audio, or events that hold it.",
            "content": {"audio/*": {}, "text/event-stream": {"example": EVENTS_EXAMPLE}},
        }
    },
    "requestBody": request_body(
        "application/json", json_schema_of(OpenAISpeechRequest), **REQUEST_EXAMPLES
    ),
}
