"""What the documentation shows: an answer of each route, and each error as it is told."""

from typing import Any

from app.core.errors import ServiceError, error_types

ANY_ERROR = ServiceError.as_example()

ERRORS = {
    kind: kind.as_example()
    for kind in error_types()
    if "example" in vars(kind) and kind is not ServiceError
}
"""One of each kind that the documentation names."""


SYSTEM_STATUS: dict[str, Any] = {
    "cpu": {
        "utilization_percent": 25.8,
        "ram_gb": {"total": 31.26, "used": 8.94, "free": 22.32, "percent_used": 28.6},
    },
    "gpus": [
        {
            "device_id": 0,
            "utilization_percent": {"gpu": 45, "memory": 28},
            "memory_gb": {"total": 15.75, "used": 3.15, "free": 12.6},
        }
    ],
    "workers": [
        {
            "id": "gpu0.0",
            "device": "gpu0",
            "state": "ready",
            "slots": 1,
            "busy": 1,
            "restarts": 1,
            "pid": 42,
            "last_error": "the worker was killed by signal 9 (Killed)",
            "compiled": False,
            "notice": "not compiled: …",
            "runaways": 0,
        }
    ],
    "queue": {"waiting": 0, "running": 1, "limit": 100, "retries": 0},
    "models": [
        {
            "id": "chatterbox",
            "workers": 2,
            "voices": {"austen.wav": {"prepared": 2, "workers": 2}},
        }
    ],
}

HEALTH: dict[str, Any] = {
    "status": "ready",
    "model": "chatterbox",
    "version": "0.1.0",
    "compiled": True,
}

MODEL: dict[str, Any] = {
    "id": "chatterbox",
    "object": "model",
    "created": 1748390400,
    "owned_by": "chatterbox-tts-server",
}

OPENAI_REQUESTS: dict[str, Any] = {
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

EVENTS = """\
data: {"type":"speech.audio.delta","audio":"//NkxAAAAANIAAAAAExBTUUz…"}

data: {"type":"speech.audio.done","usage":{"input_tokens":12,"output_tokens":21,"total_tokens":33}}

"""

SPEECH_REQUESTS: dict[str, Any] = {
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


def named(requests: dict[str, Any]) -> dict[str, Any]:
    """As a schema has several of them."""
    return {name: {"value": value} for name, value in requests.items()}


def answer(example: Any, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: what it may answer with when all is well."""
    return {status: {"content": {"application/json": {"example": example}}}}
