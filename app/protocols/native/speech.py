"""`/tts/generate`: synthesise a text and stream the audio while it is made."""

from collections.abc import Callable
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.audio.encoder import Encoder
from app.audio.formats import FormatName, new_encoder
from app.core.errors import NotAcceptable
from app.http.audio_response import AudioResponse, audio_headers
from app.http.dependencies import READ_ERRORS, get_state, read_parameters
from app.http.openapi import error_responses
from app.protocols.native.documentation import JSON_OPERATION, QUERY_OPERATION
from app.protocols.native.negotiation import negotiate
from app.protocols.native.schemas import GenerateRequest, from_json, from_query
from app.speech.service import SPEECH_ERRORS, SpeechRequest

router = APIRouter(tags=["speech"])


@router.post(
    "/tts/generate",
    summary="Speak a text (JSON)",
    openapi_extra=JSON_OPERATION,
    response_class=Response,
    responses=error_responses(*SPEECH_ERRORS, NotAcceptable, *READ_ERRORS),
)
async def generate(request: Request) -> Response:
    """For long texts and servers; parameters in a JSON object."""
    return await _respond(request, from_json(await read_parameters(request)))


@router.get(
    "/tts/generate",
    summary="Speak a text (URL)",
    openapi_extra=QUERY_OPERATION,
    response_class=Response,
    responses=error_responses(*SPEECH_ERRORS, NotAcceptable),
)
async def generate_from_url(request: Request) -> Response:
    """For an audio tag's `src`; the same parameters in the query."""
    return await _respond(request, from_query(request.query_params))


@router.head("/tts/generate", include_in_schema=False)
async def describe(request: Request) -> Response:
    """Respond with the headers of GET, without a job."""
    state, parameters = get_state(request), from_query(request.query_params)
    model = state.speech.model(parameters.model)
    text = await state.speech.clean(parameters.text)
    notice = state.speech.complete(parameters, model, parameters.voice_id, text).notice
    encoder = _new_encoder(request, parameters)()
    if parameters.voice_id is not None:
        state.voices.unpin(state.voices.pin(parameters.voice_id))  # raises VoiceNotFound
    response = Response(headers=audio_headers(model, notice), media_type=encoder.media_type)
    del response.headers["content-length"]  # a stream has none
    return response


async def _respond(request: Request, parameters: GenerateRequest) -> AudioResponse:
    stream = await get_state(request).speech.start(
        SpeechRequest(
            request.state.request_id,
            parameters.text,
            parameters.voice_id,
            parameters,
            _new_encoder(request, parameters),
            model=parameters.model,
        )
    )
    return AudioResponse(stream, buffered=not parameters.stream)


def _new_encoder(request: Request, parameters: GenerateRequest) -> Callable[[], Encoder]:
    name: FormatName = parameters.format or negotiate(request.headers.get("accept", ""))
    return partial(new_encoder, name, parameters.speed)
