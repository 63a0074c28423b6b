"""`/v1`: speech, models and voices in the form of OpenAI's API."""

import asyncio
from functools import lru_cache
from time import time
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from app.audio.encoder import Encoder
from app.audio.formats import new_encoder
from app.core.errors import ModelNotFound
from app.core.model import ModelInfo
from app.core.validation import shortened
from app.http.audio_response import AudioResponse
from app.http.dependencies import READ_ERRORS, get_state, read_parameters
from app.http.openapi import error_responses, json_response
from app.protocols.openai.documentation import SPEECH_OPERATION
from app.protocols.openai.schemas import (
    AudioModels,
    AudioVoices,
    Model,
    ModelId,
    Models,
    OpenAISpeechRequest,
    Voice,
    from_openai_json,
)
from app.protocols.openai.sse import SseEncoder
from app.settings import Settings
from app.speech.model_resolver import resolve_model
from app.speech.service import SPEECH_ERRORS, SpeechRequest
from app.speech.voice_resolver import listed_names, resolve_voice
from app.voices.snapshot import VoiceSnapshot

router = APIRouter(prefix="/v1", tags=["openai"])

PUBLIC_LISTS = frozenset({"/v1/audio/voices", "/v1/audio/models", "/v1/models"})
"""Open with `PUBLIC_VOICE_LIST`."""

OPENAI_MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
"""Listed since some clients use listed models only; they mean the default model."""

_STARTED = int(time())

_PARAM_NAMES = {"text": "input", "voice_id": "voice"}
"""Parameters of the speech service, and their names in this API."""

_MODEL_EXAMPLE: dict[str, Any] = {
    "id": "chatterbox",
    "object": "model",
    "created": 1748390400,
    "owned_by": "chatterbox-tts-server",
    "root": "chatterbox",
    "languages": ["en"],
    "tags": [],
    "defaults": {"synthesis_temperature": 0.8, "language": "en"},
    "unused": ["top_k"],
}


@router.post(
    "/audio/speech",
    summary="Speak a text (OpenAI)",
    openapi_extra=SPEECH_OPERATION,
    response_class=Response,
    responses=error_responses(*SPEECH_ERRORS, *READ_ERRORS, names=_PARAM_NAMES),
)
async def create_speech(request: Request) -> Response:
    """OpenAI-compatible; also accepts the synthesis parameters of `/tts/generate`."""
    request.state.parameter_names = _PARAM_NAMES
    parameters = from_openai_json(await read_parameters(request, "input"))
    state = get_state(request)
    model = resolve_model(parameters.model, state.backend.models)
    state.speech.model(model)  # raises ModelNotFound
    state.backend.ensure_accepting(model)  # voices are unknown until the service is ready
    voice_id = (
        None
        if parameters.voice is None
        else resolve_voice(parameters.voice, state.voices, state.settings.voice_aliases)
    )
    stream = await state.speech.start(
        SpeechRequest(
            request.state.request_id,
            parameters.input,
            voice_id,
            parameters,
            lambda: _new_encoder(parameters),
            silence_if_empty=True,  # clients check a key with "."; models write "..." and emoji
            model=model,
        )
    )
    return AudioResponse(stream, buffered=not parameters.stream)


@router.get(
    "/models",
    summary="List models (OpenAI)",
    responses=json_response(
        {"object": "list", "data": [_MODEL_EXAMPLE, _MODEL_EXAMPLE | {"id": "tts-1"}]}
    ),
)
async def list_models(request: Request) -> Models:
    """The models with their languages and tags, and OpenAI's names for the default one.

    `root` is the model that a name stands for. `defaults`: its synthesis parameters in a request
    that has none. `unused`: those that it ignores.
    """
    settings = get_state(request).settings
    models = _models(request).items()
    return Models(data=[_describe(name, model, settings) for name, model in models])


@router.get(
    "/models/{model}",
    summary="Describe a model (OpenAI)",
    responses=json_response(_MODEL_EXAMPLE) | error_responses(ModelNotFound),
)
async def describe_model(model: str, request: Request) -> Model:
    """One of those that are listed."""
    models = _models(request)
    if model not in models:
        raise ModelNotFound(f"There is no model {shortened(model)!r}.", param="model")
    return _describe(model, models[model], get_state(request).settings)


@router.get(
    "/audio/models",
    summary="List models (Open WebUI)",
    responses=json_response({"models": [{"id": "chatterbox"}, {"id": "tts-1"}]}),
)
async def list_audio_models(request: Request) -> AudioModels:
    """The same as Open WebUI asks for them."""
    return AudioModels(models=[ModelId(id=name) for name in _models(request)])


@router.get(
    "/audio/voices",
    summary="List voices (Open WebUI)",
    response_model=AudioVoices,
    responses=json_response(
        {
            "voices": [
                {"id": "austen.wav", "name": "austen", "language": "en"},
                {"id": "giulia.it.wav", "name": "giulia.it", "language": "it"},
            ]
        }
    ),
)
async def list_audio_voices(request: Request) -> Response:
    """All voices, the aliases, and one of OpenAI's names that means the default voice.

    `language`: a code, or null if it is unknown.
    """
    state = get_state(request)
    aliases = tuple(state.settings.voice_aliases.items())
    content = await asyncio.to_thread(_voice_list, state.voices.snapshot, aliases)
    return Response(content, media_type="application/json")


@lru_cache(maxsize=1)
def _voice_list(voices: VoiceSnapshot, aliases: tuple[tuple[str, str], ...]) -> bytes:
    """The list as JSON, made once for all requests: there may be thousands of voices."""
    known = dict(aliases)

    def language_of(name: str) -> str | None:
        voice_id = voices.find(name) or voices.find(known.get(name, ""))
        return voice_id and voices.language_of(voice_id)

    names = listed_names(voices, known).items()
    listed = [Voice(id=id, name=name, language=language_of(id)) for id, name in names]
    return AudioVoices(voices=listed).model_dump_json().encode()


def _models(request: Request) -> dict[str, ModelInfo]:
    """The models by the names that are listed."""
    models = get_state(request).backend.models
    return {model.name: model for model in models} | dict.fromkeys(OPENAI_MODELS, models[0])


def _describe(name: str, model: ModelInfo, settings: Settings) -> Model:
    defaults = msgspec.structs.asdict(settings.synthesis_params(model.defaults))
    del defaults["seed"]  # a random one
    return Model(
        id=name,
        created=_STARTED,
        owned_by="chatterbox-tts-server",
        root=model.name,
        languages=[code for code, absence in model.languages.items() if absence is None],
        tags=list(model.tags),
        defaults=defaults,
        unused=list(model.unused),
    )


def _new_encoder(parameters: OpenAISpeechRequest) -> Encoder:
    encoder = new_encoder(parameters.response_format, parameters.speed)
    if parameters.stream_format == "sse":
        encoder = SseEncoder(len(parameters.input), encoder, _PARAM_NAMES)
    return encoder
