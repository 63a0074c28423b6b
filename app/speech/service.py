"""Check a speech request, submit its job and return a stream of encoded audio.

Used by every protocol. Errors name parameters as `/tts/generate` does.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from msgspec.structs import replace

from app.audio.encoder import Encoder
from app.backend.base import Backend, JobRequest, find_model
from app.backend.job_stream import JobStream, silence
from app.core.errors import (
    JOB_ERRORS,
    EmptyText,
    InvalidRequest,
    ModelNotFound,
    QueueFull,
    ServiceError,
    StorageFull,
    StorageUnavailable,
    TextTooLong,
    UnsupportedLanguage,
    UnusableAudio,
    VoiceNotFound,
)
from app.core.model import ModelInfo
from app.core.params import SynthesisParams
from app.core.unicode import MAX_DECOMPOSITION
from app.engines.chatterbox.variants import VARIANTS
from app.observability.metrics import Metrics
from app.settings import Settings
from app.speech.model_resolver import with_download
from app.speech.options import SpeechOptions
from app.speech.parameters import CompleteParams, RequestedSpeech, complete
from app.speech.stream import SpeechStream
from app.text.cleaning import clean
from app.voices.library import VoiceLibrary

SHORTEN_TEXT = "send it in parts, or raise the setting MAX_TEXT_LENGTH"
"""What to do about a text that is too long."""

LONG_TEXT = 1000
"""In characters; to clean more takes milliseconds."""

SPEECH_ERRORS: tuple[type[ServiceError], ...] = (
    InvalidRequest,
    EmptyText,
    UnsupportedLanguage,
    VoiceNotFound,
    ModelNotFound,
    TextTooLong,
    UnusableAudio,
    QueueFull,
    *JOB_ERRORS,
)
"""Errors that `SpeechService.start` and its stream raise."""

CONVERSION_ERRORS: tuple[type[ServiceError], ...] = (
    InvalidRequest,
    VoiceNotFound,
    ModelNotFound,
    UnusableAudio,
    StorageFull,
    StorageUnavailable,
    QueueFull,
    *JOB_ERRORS,
)
"""Errors that `SpeechService.convert` and its stream raise."""


@dataclass(frozen=True)
class SpeechRequest:
    """A request of any protocol. `voice_id`, `model` None: the default ones.

    `new_encoder` is called once per attempt at the job; it applies the speed of the options.
    `silence_if_empty`: a text that has characters, but nothing to say, is a moment of silence in
    place of `EmptyText`.
    """

    request_id: str
    text: str
    voice_id: str | None
    options: SpeechOptions
    new_encoder: Callable[[], Encoder]
    silence_if_empty: bool = False
    model: str | None = None


@dataclass(frozen=True)
class ConversionRequest:
    """A `recording` of speech that gets another voice. See `SpeechRequest`."""

    request_id: str
    recording: BinaryIO
    voice_id: str | None
    new_encoder: Callable[[], Encoder]
    model: str | None = None
    seed: int | None = None
    speed: float = 1.0


class _Pins(ExitStack):
    """What a job needs until it is over. `voice`: the digest of its voice."""

    voice: str | None = None


@dataclass(frozen=True)
class SpeechService:
    """Starts speech. `threads` clean long texts and run the encoders that need CPU time."""

    settings: Settings
    backend: Backend
    voices: VoiceLibrary
    metrics: Metrics
    threads: Executor

    def model(self, name: str | None) -> ModelInfo:
        """The model of a request. Raises `ModelNotFound`."""
        try:
            return find_model(self.backend.models, name)
        except ModelNotFound as error:
            raise with_download(error, name, self.settings.model) from None

    async def start(self, request: SpeechRequest) -> SpeechStream:
        """Check the text, pin the voice, submit the job. Raises one of `SPEECH_ERRORS`."""
        model = self.model(request.model)
        text = await self._spoken_text(request)
        self.backend.ensure_accepting(model.name)
        params, notice = self.complete(request.options, model, request.voice_id, text)
        with self._pinned(request.voice_id) as pins:
            job = self._submit(request, text, pins.voice, params, model) if text else silence()
            return self._stream(job, request.new_encoder, model, notice, pins)

    async def convert(self, request: ConversionRequest) -> SpeechStream:
        """Convert a recording to another voice. Raises one of `CONVERSION_ERRORS`."""
        model = self._converter(request.model)
        self.backend.ensure_accepting(model.name)
        params = self.settings.synthesis_params(model.defaults)
        if request.seed is not None:
            params = replace(params, seed=request.seed)
        with self._pinned(request.voice_id) as pins:
            self.backend.ensure_room(model.name)  # before the recording is decoded
            recording = await self.voices.add_recording(request.recording)
            pins.callback(self.voices.unpin, recording)
            job = self.backend.submit(
                JobRequest(
                    *(request.request_id, "", pins.voice, params, request.speed),
                    model=model.name,
                    recording=recording,
                )
            )
            return self._stream(job, request.new_encoder, model, None, pins)

    def _converter(self, name: str | None) -> ModelInfo:
        """The model for a conversion: the first that can, unless one is named."""
        models = self.backend.models if name is None else [self.model(name)]
        if found := next((model for model in models if model.converts_speech), None):
            return found
        able = " and ".join(spec.id for spec in VARIANTS.values() if spec.converts_speech)
        raise InvalidRequest(
            f"{models[0].name} cannot convert speech; {able} can: see the setting MODEL.",
            param="model",
        )

    @contextmanager
    def _pinned(self, voice_id: str | None) -> Iterator["_Pins"]:
        """Keep a voice until the pins are closed, or an error is raised."""
        pins = _Pins()
        if voice_id is not None:
            pins.voice = self.voices.pin(voice_id)
            pins.callback(self.voices.unpin, pins.voice)
        try:
            yield pins
        except BaseException:
            pins.close()
            raise

    def _stream(
        self,
        job: JobStream,
        new_encoder: Callable[[], Encoder],
        model: ModelInfo,
        notice: str | None,
        pins: "_Pins",
    ) -> SpeechStream:
        return SpeechStream(
            job,
            new_encoder,
            self.threads,
            self.metrics,
            model=model,
            notice=notice,
            on_close=pins.close,
        )

    async def _spoken_text(self, request: SpeechRequest) -> str:
        """Clean the text; empty if silence is to be spoken. Raises `EmptyText`, `TextTooLong`."""
        try:
            return await self.clean(request.text)
        except EmptyText:
            if request.silence_if_empty and request.text:
                return ""
            raise

    def complete(
        self, options: SpeechOptions, model: ModelInfo, voice_id: str | None, text: str
    ) -> CompleteParams:
        """Complete the options for a model, a voice and a text. Raises `UnsupportedLanguage`."""
        defaults = self.settings.synthesis_params(model.defaults)
        known = voice_id and self.voices.find(voice_id)
        voice_language = self.voices.snapshot.language_of(known) if known else None
        requested = RequestedSpeech(options, known or voice_id, voice_language, text)
        return complete(requested, defaults, model)

    def _submit(
        self,
        request: SpeechRequest,
        text: str,
        voice: str | None,
        params: SynthesisParams,
        model: ModelInfo,
    ) -> JobStream:
        job = self.backend.submit(
            JobRequest(request.request_id, text, voice, params, request.options.speed, model.name)
        )
        job.silence_if_empty = request.silence_if_empty
        return job

    async def clean(self, text: str) -> str:
        """Clean a text for a job, a long one on a thread. Raises `EmptyText`, `TextTooLong`."""
        if len(text) <= LONG_TEXT:
            return self._clean(text)
        return await asyncio.get_running_loop().run_in_executor(self.threads, self._clean, text)

    def _clean(self, text: str) -> str:
        """Check the length after cleaning, which shortens a text, but before markup is stripped.

        A text with more than `MAX_DECOMPOSITION` code points per allowed character is not cleaned.
        """
        longest = self.settings.max_text_length
        cleaned = text if len(text) > longest * MAX_DECOMPOSITION else clean(text)
        if len(cleaned) > longest:
            raise TextTooLong(
                f"The text has {len(cleaned)} characters, {longest} are allowed: {SHORTEN_TEXT}.",
                param="text",
            )
        return clean(text, markup=True) if self.settings.tts_strip_markup else cleaned
