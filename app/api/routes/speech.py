"""`/tts/generate`: a text in, audio out while it is being made."""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from app.api.body import read_json_object
from app.api.dependencies import Services, services_of
from app.api.errors import documented
from app.api.negotiation import negotiate
from app.api.schemas import FormatName, SpeechRequest, from_json, from_query
from app.api.speech_response import SpeechResponse
from app.audio.encoder import ENCODERS, Encoder
from app.errors import (
    ClientStalled,
    Draining,
    EmptyText,
    EncoderFailed,
    EngineFailed,
    InvalidRequest,
    NotAcceptable,
    NotReady,
    OutOfMemory,
    PayloadTooLarge,
    PoisonRequest,
    QueueFull,
    QueueTimeout,
    TextTooLong,
    UnsupportedMedia,
    VoiceNotFound,
    WorkerLost,
    WorkerStalled,
)
from app.messages import SAMPLE_RATE
from app.text import clean


class _BareRoute(APIRoute):
    """Hands its endpoint the request as it is; what FastAPI would make of it costs too much here.

    Nothing is lost: the endpoints say themselves what they accept, and how it is documented.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint


router = APIRouter(tags=["speech"], route_class=_BareRoute)

BYTES_PER_CHARACTER = 12
"""Of JSON, at most: one outside the Basic Multilingual Plane, written as two \\u escapes."""

BYTES_OF_OTHER_PARAMETERS = 16_384

_ERRORS = (
    *(InvalidRequest, EmptyText, VoiceNotFound, NotAcceptable, TextTooLong, QueueFull),
    *(EngineFailed, EncoderFailed, WorkerLost, PoisonRequest),
    *(NotReady, Draining, QueueTimeout, OutOfMemory, ClientStalled, WorkerStalled),
)

_SCHEMA = SpeechRequest.model_json_schema(by_alias=False)
_AUDIO = {"200": {"description": "The audio.", "content": {"audio/*": {}}}}
_BODY: dict[str, Any] = {
    "responses": _AUDIO,
    "requestBody": {"required": True, "content": {"application/json": {"schema": _SCHEMA}}},
}
_QUERY: dict[str, Any] = {
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


@router.post(
    "/tts/generate",
    summary="Speak a text (JSON)",
    openapi_extra=_BODY,
    response_class=Response,
    responses=documented(*_ERRORS, PayloadTooLarge, UnsupportedMedia),
)
async def generate(request: Request) -> Response:
    """For long texts and servers; parameters in a JSON object."""
    services = services_of(request)
    longest = services.master.settings.max_text_length
    most_bytes = longest * BYTES_PER_CHARACTER + BYTES_OF_OTHER_PARAMETERS
    too_large = PayloadTooLarge(f"the text may have at most {longest} characters", param="text")
    values = await read_json_object(request, most_bytes, too_large)
    return _speak(request, services, from_json(values))


@router.get(
    "/tts/generate",
    summary="Speak a text (URL)",
    openapi_extra=_QUERY,
    response_class=Response,
    responses=documented(*_ERRORS),
)
async def generate_from_url(request: Request) -> Response:
    """For an audio tag's `src`; the same parameters in the query."""
    return _speak(request, services_of(request), from_query(request.query_params))


@router.head("/tts/generate", include_in_schema=False)
async def describe(request: Request) -> Response:
    """What GET would answer, without a job."""
    services = services_of(request)
    wanted = from_query(request.query_params)
    _checked_text(wanted, services)
    encoder = _new_encoder(request, wanted)()
    if wanted.voice_id is not None:
        services.master.voices.unpin(services.master.voices.pin(wanted.voice_id))
    response = Response(headers=_headers(services, wanted), media_type=encoder.media_type)
    del response.headers["content-length"]  # of a stream, it is not known
    return response


def _speak(request: Request, services: Services, wanted: SpeechRequest) -> SpeechResponse:
    """Check everything, then pin the voice, submit the job and answer with its stream."""
    master = services.master
    text = _checked_text(wanted, services)
    new_encoder = _new_encoder(request, wanted)
    master.dispatcher.refuse_if_closed()
    voice = master.voices.pin(wanted.voice_id) if wanted.voice_id is not None else None

    def release_voice() -> None:
        if voice is not None:
            master.voices.unpin(voice)

    try:
        params = wanted.params(master.settings.synthesis_params())
        stream = master.dispatcher.submit(request.state.request_id, text, voice, params)
    except BaseException:
        release_voice()
        raise
    return SpeechResponse(
        stream,
        new_encoder,
        services.encoder_threads,
        _headers(services, wanted),
        whole=not wanted.stream,
        on_end=release_voice,
    )


def _checked_text(wanted: SpeechRequest, services: Services) -> str:
    text, longest = clean(wanted.text), services.master.settings.max_text_length
    if len(text) > longest:
        raise TextTooLong(
            f"the text has {len(text)} characters, {longest} are allowed", param="text"
        )
    return text


def _new_encoder(request: Request, wanted: SpeechRequest) -> Callable[[], Encoder]:
    name: FormatName = wanted.format or negotiate(request.headers.get("accept", ""))
    return partial(ENCODERS[name], SAMPLE_RATE)


def _headers(services: Services, wanted: SpeechRequest) -> dict[str, str]:
    headers = {
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",
        "X-Sample-Rate": str(SAMPLE_RATE),
    }
    if ready := services.master.supervisor.ready:
        headers["X-TTS-Model"] = ready.model
        if wanted.voice_id is not None and not ready.clones_voices:
            headers["X-TTS-Notice"] = f"the {ready.model} voice ignores voice_id"
    return headers
