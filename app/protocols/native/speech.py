"""`/tts/generate`: a text in, audio out while it is being made."""

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from app.audio.encoder import Encoder
from app.audio.formats import ENCODERS, FormatName
from app.core.audio import SAMPLE_RATE
from app.core.errors import NotAcceptable
from app.http.audio_response import AudioResponse, audio_headers
from app.http.dependencies import READ_ERRORS, get_state, json_parameters
from app.http.error_handlers import documented
from app.http.openapi import SPEECH_REQUESTS, named
from app.http.raw_request_route import BareRoute
from app.protocols.native.negotiation import negotiate
from app.protocols.native.schemas import GenerateRequest, from_json, from_query
from app.settings import Settings
from app.speech.options import json_schema_of
from app.speech.service import SPEECH_ERRORS, SpeechRequest, ignored

router = APIRouter(tags=["speech"], route_class=BareRoute)

_SCHEMA = json_schema_of(GenerateRequest)
_AUDIO = {"200": {"description": "The audio.", "content": {"audio/*": {}}}}
_BODY: dict[str, Any] = {
    "responses": _AUDIO,
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _SCHEMA, "examples": named(SPEECH_REQUESTS)},
        },
    },
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


def document_settings(operations: dict[str, Any], settings: Settings) -> None:
    """Put into the schema of this path what the settings decide: defaults, the longest text."""
    defaults = msgspec.structs.asdict(settings.synthesis_params())
    del defaults["seed"]
    content = operations["post"]["requestBody"]["content"]["application/json"]
    in_body = content["schema"]["properties"]
    in_query = {one["name"]: one["schema"] for one in operations["get"]["parameters"]}
    for parameters in (in_body, in_query):
        parameters["text"]["x-max-length"] = settings.max_text_length
        for name, default in defaults.items():
            parameters[name]["default"] = default


@router.post(
    "/tts/generate",
    summary="Speak a text (JSON)",
    openapi_extra=_BODY,
    response_class=Response,
    responses=documented(*SPEECH_ERRORS, NotAcceptable, *READ_ERRORS),
)
async def generate(request: Request) -> Response:
    """For long texts and servers; parameters in a JSON object."""
    return _answer(request, from_json(await json_parameters(request)))


@router.get(
    "/tts/generate",
    summary="Speak a text (URL)",
    openapi_extra=_QUERY,
    response_class=Response,
    responses=documented(*SPEECH_ERRORS, NotAcceptable),
)
async def generate_from_url(request: Request) -> Response:
    """For an audio tag's `src`; the same parameters in the query."""
    return _answer(request, from_query(request.query_params))


@router.head("/tts/generate", include_in_schema=False)
async def describe(request: Request) -> Response:
    """What GET would answer, without a job."""
    speech = get_state(request).speech
    parameters = from_query(request.query_params)
    encoder = _new_encoder(request, parameters)()
    speech.check(parameters.text, parameters.voice_id)
    headers = audio_headers(speech.model, ignored(speech.model, parameters.voice_id))
    response = Response(headers=headers, media_type=encoder.media_type)
    del response.headers["content-length"]  # a stream's is not known
    return response


def _answer(request: Request, parameters: GenerateRequest) -> AudioResponse:
    stream = get_state(request).speech.start(
        SpeechRequest(
            request.state.request_id,
            parameters.text,
            parameters.voice_id,
            parameters,
            _new_encoder(request, parameters),
        )
    )
    return AudioResponse(stream, buffered=not parameters.stream)


def _new_encoder(request: Request, parameters: GenerateRequest) -> Callable[[], Encoder]:
    name: FormatName = parameters.format or negotiate(request.headers.get("accept", ""))
    return partial(ENCODERS[name], SAMPLE_RATE)
