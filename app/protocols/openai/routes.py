"""`/v1`: speech, models and voices as clients of OpenAI's API ask for them."""

from time import time
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from app.audio.encoder import Encoder
from app.audio.formats import OPENAI_ENCODERS
from app.audio.tempo import TempoEncoder
from app.core.audio import SAMPLE_RATE
from app.core.errors import ModelNotFound
from app.http.audio_response import AudioResponse
from app.http.dependencies import READ_ERRORS, AppState, State, get_state, json_parameters
from app.http.error_handlers import documented
from app.http.openapi import EVENTS, MODEL, OPENAI_REQUESTS, answer, named
from app.http.raw_request_route import BareRoute
from app.protocols.openai.schemas import OpenAISpeechRequest, from_openai_json
from app.protocols.openai.sse import EventEncoder
from app.speech.options import json_schema_of
from app.speech.service import SPEECH_ERRORS, SpeechRequest
from app.speech.voice_resolver import listed_names, voice_id_of

speech = APIRouter(prefix="/v1", tags=["openai"], route_class=BareRoute)
router = APIRouter(prefix="/v1", tags=["openai"])
"""Beside each other, not one in the other: a route would know the inner part of its path only."""

VOICE_LIST = "/v1/audio/voices"

OPENAI_MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
"""Some clients speak with listed models only; whatever the name, the one model answers."""

_STARTED = int(time())

_PARAMETERS = {"text": "input", "voice_id": "voice"}
"""Of `/tts/generate`, and what they are called here."""

_BODY: dict[str, Any] = {
    "responses": {
        "200": {
            "description": "The audio, or events that hold it.",
            "content": {"audio/*": {}, "text/event-stream": {"example": EVENTS}},
        }
    },
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": json_schema_of(OpenAISpeechRequest),
                "examples": named(OPENAI_REQUESTS),
            }
        },
    },
}


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class Models(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class ModelId(BaseModel):
    id: str


class AudioModels(BaseModel):
    models: list[ModelId]


class Voice(BaseModel):
    id: str
    name: str


class AudioVoices(BaseModel):
    voices: list[Voice]


@speech.post(
    "/audio/speech",
    summary="Speak a text (OpenAI)",
    openapi_extra=_BODY,
    response_class=Response,
    responses=documented(*SPEECH_ERRORS, *READ_ERRORS, names=_PARAMETERS),
)
async def create_speech(request: Request) -> Response:
    """As OpenAI's; what `/tts/generate` knows beside text, voice and format is taken, too."""
    request.state.parameter_names = _PARAMETERS
    wanted = from_openai_json(await json_parameters(request))
    state = get_state(request)
    state.backend.ensure_accepting()  # the voices are not known before
    voice_id = (
        None
        if wanted.voice is None
        else voice_id_of(wanted.voice, state.voices, state.settings.voice_aliases)
    )
    stream = state.speech.start(
        SpeechRequest(
            request.state.request_id,
            wanted.input,
            voice_id,
            wanted,
            lambda: _new_encoder(wanted),
        )
    )
    return AudioResponse(stream, buffered=not wanted.stream)


@router.get(
    "/models",
    summary="List models (OpenAI)",
    responses=answer({"object": "list", "data": [MODEL, MODEL | {"id": "tts-1"}]}),
)
async def list_models(state: State) -> Models:
    """The model that speaks, and the names of OpenAI's that it answers to."""
    return Models(data=[_described(name) for name in _model_names(state)])


@router.get(
    "/models/{model}",
    summary="Describe a model (OpenAI)",
    responses=answer(MODEL) | documented(ModelNotFound),
)
async def describe_model(model: str, state: State) -> Model:
    """One of those that are listed."""
    if model not in _model_names(state):
        raise ModelNotFound(f"There is no model {model!r}.", param="model")
    return _described(model)


@router.get(
    "/audio/models",
    summary="List models (Open WebUI)",
    responses=answer({"models": [{"id": "chatterbox"}, {"id": "tts-1"}]}),
)
async def list_audio_models(state: State) -> AudioModels:
    """The same as Open WebUI asks for them."""
    return AudioModels(models=[ModelId(id=name) for name in _model_names(state)])


@router.get(
    "/audio/voices",
    summary="List voices (Open WebUI)",
    responses=answer(
        {
            "voices": [
                {"id": "austen.wav", "name": "austen"},
                {"id": "alloy", "name": "alloy (default voice)"},
            ]
        }
    ),
)
async def list_audio_voices(state: State) -> AudioVoices:
    """All voices, the aliases, and one of OpenAI's names that means the default voice."""
    names = listed_names(state.voices, state.settings.voice_aliases)
    return AudioVoices(voices=[Voice(id=id, name=name) for id, name in names.items()])


def _model_names(state: AppState) -> list[str]:
    ready = state.backend.ready
    return [ready.name if ready else state.backend.status().model, *OPENAI_MODELS]


def _described(name: str) -> Model:
    return Model(id=name, created=_STARTED, owned_by="chatterbox-tts-server")


def _new_encoder(wanted: OpenAISpeechRequest) -> Encoder:
    encoder: Encoder = OPENAI_ENCODERS[wanted.response_format](SAMPLE_RATE)
    if wanted.speed != 1:
        encoder = TempoEncoder(SAMPLE_RATE, wanted.speed, encoder)
    if wanted.stream_format == "sse":
        encoder = EventEncoder(len(wanted.input), encoder, _PARAMETERS)
    return encoder
