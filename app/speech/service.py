"""Check a speech request, submit its job and return a stream of encoded audio.

Used by every protocol. Errors name parameters as `/tts/generate` does.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from secrets import randbits

from msgspec.structs import replace

from app.audio.encoder import Encoder
from app.backend.base import Backend, JobRequest, ModelInfo
from app.backend.job_stream import JobStream, silence
from app.core.errors import (
    JOB_ERRORS,
    EmptyText,
    InvalidRequest,
    QueueFull,
    ServiceError,
    TextTooLong,
    UnsupportedLanguage,
    VoiceNotFound,
)
from app.core.params import SynthesisParams
from app.core.unicode import MAX_DECOMPOSITION
from app.engines.languages import resolve_language
from app.observability.metrics import Metrics
from app.settings import Settings
from app.speech.options import SpeechOptions
from app.speech.stream import SpeechStream
from app.text.cleaning import clean
from app.voices.library import VoiceLibrary

LONG_TEXT = 1000
"""In characters; to clean more takes milliseconds."""

SPEECH_ERRORS: tuple[type[ServiceError], ...] = (
    InvalidRequest,
    EmptyText,
    UnsupportedLanguage,
    VoiceNotFound,
    TextTooLong,
    QueueFull,
    *JOB_ERRORS,
)
"""Errors that `SpeechService.start` and its stream raise."""


@dataclass(frozen=True)
class SpeechRequest:
    """A request of any protocol. `voice_id` None: the default voice.

    `new_encoder` is called once per attempt at the job; it makes the speech `speed` times as fast.
    `silence_if_empty`: a text that has characters, but nothing to say, is a moment of silence in
    place of `EmptyText`.
    """

    request_id: str
    text: str
    voice_id: str | None
    options: SpeechOptions
    new_encoder: Callable[[], Encoder]
    speed: float = 1.0
    silence_if_empty: bool = False


@dataclass(frozen=True)
class SpeechService:
    """Starts speech. `threads` clean long texts and run the encoders that need CPU time."""

    settings: Settings
    backend: Backend
    voices: VoiceLibrary
    metrics: Metrics
    threads: Executor

    @cached_property
    def _defaults(self) -> SynthesisParams:
        return self.settings.synthesis_params()

    async def start(self, request: SpeechRequest) -> SpeechStream:
        """Check the text, pin the voice, submit the job. Raises one of `SPEECH_ERRORS`."""
        text = await self._spoken_text(request)
        self.backend.ensure_accepting()
        params = self.params(request.options)
        voice = None if request.voice_id is None else self.voices.pin(request.voice_id)

        def release_voice() -> None:
            if voice is not None:
                self.voices.unpin(voice)

        try:
            job = self._submit(request, text, voice, params) if text else silence()
        except BaseException:
            release_voice()
            raise
        model = self.backend.ready
        return SpeechStream(
            job,
            request.new_encoder,
            self.threads,
            self.metrics,
            model=model,
            notice=ignored_parameters(model, request.voice_id),
            on_close=release_voice,
        )

    async def _spoken_text(self, request: SpeechRequest) -> str:
        """Clean the text; empty if silence is to be spoken. Raises `EmptyText`, `TextTooLong`."""
        try:
            return await self.clean(request.text)
        except EmptyText:
            if request.silence_if_empty and request.text:
                return ""
            raise

    def params(self, options: SpeechOptions) -> SynthesisParams:
        """Complete the options. Raises `UnsupportedLanguage` if the model is known by now."""
        params = options.params(replace(self._defaults, seed=randbits(32)))
        model = self.backend.ready
        if model is None:
            return params
        return replace(
            params, language=resolve_language(params.language, model.name, model.languages)
        )

    def _submit(
        self, request: SpeechRequest, text: str, voice: str | None, params: SynthesisParams
    ) -> JobStream:
        job = self.backend.submit(
            JobRequest(request.request_id, text, voice, params, request.speed)
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
                f"The text has {len(cleaned)} characters, {longest} are allowed.", param="text"
            )
        return clean(text, markup=True) if self.settings.tts_strip_markup else cleaned


def ignored_parameters(model: ModelInfo | None, voice_id: str | None) -> str | None:
    """Return a notice about parameters that the model ignores."""
    if model and voice_id is not None and not model.clones_voices:
        return f"the {model.name} voice ignores voice_id"
    return None
