"""What every route that speaks does with what it has understood: checks, voice, job, response.

Parameters are named in errors as `/tts/generate` names them.
"""

from collections.abc import Callable
from typing import Any

from starlette.requests import Request

from app.audio.encoder import Encoder
from app.core.audio import SAMPLE_RATE
from app.core.errors import (
    ClientStalled,
    Draining,
    EmptyText,
    EncoderFailed,
    EngineFailed,
    InvalidRequest,
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
from app.http.audio_response import SpeechResponse
from app.http.dependencies import Services, services_of
from app.http.request_body import read_json_object
from app.speech.options import SpeechOptions
from app.text.cleaning import clean

BYTES_PER_CHARACTER = 12
"""Of JSON, at most: one outside the Basic Multilingual Plane, written as two \\u escapes."""

BYTES_OF_OTHER_PARAMETERS = 16_384

READ_ERRORS = (PayloadTooLarge, UnsupportedMedia)
SPEAK_ERRORS = (
    *(InvalidRequest, EmptyText, VoiceNotFound, TextTooLong, QueueFull),
    *(EngineFailed, EncoderFailed, WorkerLost, PoisonRequest),
    *(NotReady, Draining, QueueTimeout, OutOfMemory, ClientStalled, WorkerStalled),
)
"""What `read_parameters`, and what `speak` and its response may raise beside `InvalidRequest`."""


async def read_parameters(request: Request) -> dict[str, Any]:
    """The JSON object in the body, which may hold as long a text as is allowed."""
    longest = services_of(request).master.settings.max_text_length
    most_bytes = longest * BYTES_PER_CHARACTER + BYTES_OF_OTHER_PARAMETERS
    too_large = PayloadTooLarge(f"The text may have at most {longest} characters.", param="text")
    return await read_json_object(request, most_bytes, too_large)


def speak(
    request: Request,
    text: str,
    voice_id: str | None,
    options: SpeechOptions,
    new_encoder: Callable[[], Encoder],
) -> SpeechResponse:
    """Check the text, then pin the voice, submit the job and answer with its stream."""
    services = services_of(request)
    master = services.master
    text = checked_text(text, services)
    master.dispatcher.refuse_if_closed()
    voice = master.voices.pin(voice_id) if voice_id is not None else None

    def release_voice() -> None:
        if voice is not None:
            master.voices.unpin(voice)

    try:
        params = options.params(master.settings.synthesis_params())
        stream = master.dispatcher.submit(request.state.request_id, text, voice, params)
    except BaseException:
        release_voice()
        raise
    return SpeechResponse(
        stream,
        new_encoder,
        services.encoder_threads,
        speech_headers(services, voice_id),
        master.metrics,
        whole=not options.stream,
        on_end=release_voice,
    )


def checked_text(text: str, services: Services) -> str:
    """The text as it will be spoken. Raises `EmptyText`, `TextTooLong`."""
    text, longest = clean(text), services.master.settings.max_text_length
    if len(text) > longest:
        raise TextTooLong(
            f"The text has {len(text)} characters, {longest} are allowed.", param="text"
        )
    return text


def speech_headers(services: Services, voice_id: str | None) -> dict[str, str]:
    """Of any speech, whatever its format."""
    headers = {
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",
        "X-Sample-Rate": str(SAMPLE_RATE),
    }
    if ready := services.master.supervisor.ready:
        headers["X-TTS-Model"] = ready.model
        if voice_id is not None and not ready.clones_voices:
            headers["X-TTS-Notice"] = f"the {ready.model} voice ignores voice_id"
    return headers
