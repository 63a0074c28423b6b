"""The state of the app, for routes."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request

from app.backend.base import Backend
from app.core.errors import PayloadTooLarge, UnsupportedMedia
from app.http.request_body import read_json_object
from app.observability.metrics import Metrics
from app.settings import Settings
from app.speech.service import SpeechService
from app.voices.library import VoiceLibrary

BYTES_PER_CHARACTER = 12
"""Of JSON, at most: one outside the Basic Multilingual Plane, written as two \\u escapes."""

BYTES_OF_OTHER_PARAMETERS = 16_384

READ_ERRORS = (PayloadTooLarge, UnsupportedMedia)
"""What `json_parameters` may raise beside `InvalidRequest`."""


@dataclass(frozen=True)
class AppState:
    """All that routes use; the app holds one."""

    settings: Settings
    backend: Backend
    voices: VoiceLibrary
    speech: SpeechService
    metrics: Metrics


def get_state(request: Request) -> AppState:
    state: AppState = request.app.state.services
    return state


async def _get_state(request: Request) -> AppState:  # FastAPI calls a sync one in a thread
    return get_state(request)


State = Annotated[AppState, Depends(_get_state)]


async def json_parameters(request: Request) -> dict[str, Any]:
    """The JSON object in the body, long enough for the longest text that is allowed."""
    longest = get_state(request).settings.max_text_length
    most_bytes = longest * BYTES_PER_CHARACTER + BYTES_OF_OTHER_PARAMETERS
    too_large = PayloadTooLarge(f"The text may have at most {longest} characters.", param="text")
    return await read_json_object(request, most_bytes, too_large)
