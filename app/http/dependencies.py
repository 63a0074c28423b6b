"""What several routes share: the app's state, and the parameters in a JSON body."""

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from app.backend.base import Backend
from app.core.errors import PayloadTooLarge, UnsupportedMedia
from app.http.request_body import read_json_object
from app.observability.metrics import Metrics
from app.settings import Settings
from app.speech.service import SHORTEN_TEXT, SpeechService
from app.voices.library import VoiceLibrary

BYTES_PER_CHARACTER = 12
"""Most bytes of JSON per character: two \\u escapes, outside the Basic Multilingual Plane."""

OTHER_PARAMETERS_BYTES = 16_384

READ_ERRORS = (PayloadTooLarge, UnsupportedMedia)
"""Raised by `read_parameters` beside `InvalidRequest`."""


@dataclass(frozen=True)
class AppState:
    """Everything that routes use; the app holds one as `app.state.services`."""

    settings: Settings
    backend: Backend
    voices: VoiceLibrary
    speech: SpeechService
    metrics: Metrics


def get_state(request: Request) -> AppState:
    """The app's state. Called by routes: a FastAPI dependency costs more than the call."""
    state: AppState = request.app.state.services
    return state


async def read_parameters(request: Request, text: str = "text") -> dict[str, Any]:
    """Read a JSON object, as long as the longest text that the settings allow.

    `text`: the name of the text in it. Pydantic's own body parameters accept duplicate keys, NaN
    and any length.
    """
    longest = get_state(request).settings.max_text_length
    max_bytes = longest * BYTES_PER_CHARACTER + OTHER_PARAMETERS_BYTES
    too_large = PayloadTooLarge(
        f"The text may have at most {longest} characters: {SHORTEN_TEXT}.", param="text"
    )
    example = f'{{"{text}": "Hello."}}'
    return await read_json_object(request, max_bytes, too_large, example)


async def read_short_object(request: Request, example: str) -> dict[str, Any]:
    """Read a JSON object without a text. `example`: one that the route takes."""
    too_large = PayloadTooLarge(
        f"The body may have at most {OTHER_PARAMETERS_BYTES} bytes: send what the route takes, "
        f"such as {example}."
    )
    return await read_json_object(request, OTHER_PARAMETERS_BYTES, too_large, example)
