"""FastAPI dependencies that several routes share: the app's state and strict JSON bodies."""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request

from app.backend.base import Backend
from app.core.errors import PayloadTooLarge, UnsupportedMedia
from app.http.request_body import read_json_object
from app.observability.metrics import Metrics
from app.settings import Settings
from app.speech.service import SpeechService
from app.voices.library import VoiceLibrary

BYTES_PER_CHARACTER = 12
"""Most bytes of JSON per character: two \\u escapes, outside the Basic Multilingual Plane."""

OTHER_PARAMETERS_BYTES = 16_384

READ_ERRORS = (PayloadTooLarge, UnsupportedMedia)
"""Raised by `strict_json` beside `InvalidRequest`."""

M = TypeVar("M")


@dataclass(frozen=True)
class AppState:
    """Everything that routes use; the app holds one as `app.state.services`."""

    settings: Settings
    backend: Backend
    voices: VoiceLibrary
    speech: SpeechService
    metrics: Metrics


def get_state(request: Request) -> AppState:
    state: AppState = request.app.state.services
    return state


async def _get_state(request: Request) -> AppState:  # FastAPI runs sync dependencies in threads
    return get_state(request)


State = Annotated[AppState, Depends(_get_state)]


def strict_json(
    parse: Callable[[dict[str, Any]], M], names: Mapping[str, str] = MappingProxyType({})
) -> Callable[[Request], Coroutine[Any, Any, M]]:
    """Return a dependency that reads a JSON object and parses it.

    Pydantic's own body parameters accept duplicate keys, NaN and any length. The body may be long
    enough for the longest text that the settings allow. `names`: this API's names of parameters,
    for errors.
    """

    async def read(request: Request) -> M:
        request.state.parameter_names = names
        longest = get_state(request).settings.max_text_length
        max_bytes = longest * BYTES_PER_CHARACTER + OTHER_PARAMETERS_BYTES
        too_large = PayloadTooLarge(
            f"The text may have at most {longest} characters.", param="text"
        )
        return parse(await read_json_object(request, max_bytes, too_large))

    return read
