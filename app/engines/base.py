"""The engine protocol, used by the pipeline: text chunk → speech tokens → audio.

A job is cancelled by cancelling the task that awaits it; the engine checks for that between steps,
and the awaitable returns only once the work has stopped.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from app.core.audio import Samples
from app.core.params import SynthesisParams
from app.text.chunking import TextChunk

__all__ = [
    "Decoder",
    "Engine",
    "RecordedChunk",
    "SpeechSlice",
    "TextChunk",
    "Voice",
    "Watermark",
    "prepare_voice",
]

Voice = Any
"""A prepared voice; its type is the engine's own."""


@dataclass(frozen=True)
class SpeechSlice:
    """Some speech tokens of a text chunk, in the engine's own form; the `last` may be empty.

    `trim_tokens`: of the last slice; the audio of so many tokens at the chunk's end is dropped.
    """

    tokens: Any
    last: bool
    trim_tokens: int = 0


@dataclass(frozen=True)
class RecordedChunk:
    """A piece of a recording to convert, number `index`: `speech`, float32 [n] at `rate` Hz.

    It begins with the end of the piece before: 80 ms, of which the audio may fade in over 40.
    """

    index: int
    speech: Samples
    rate: int
    pause_s: float = 0.0


class Decoder(Protocol):
    """Turns the slices of one job into audio, in order; `decode` returns what the slice adds."""

    async def decode(self, piece: SpeechSlice) -> Samples: ...


class Watermark(Protocol):
    """Marks the joined audio of one job as synthetic.

    `push` appends float32 [n] and returns the samples that are final, float32 [m]; `last` ends the
    stream, which keeps its length. `state`: from which `Engine.new_watermark` continues it.
    """

    @property
    def state(self) -> bytes: ...

    def push(self, audio: Samples, last: bool) -> Samples: ...


class Engine(Protocol):
    """A speech model. Constructed with an `EngineConfig` on the worker's main thread.

    The constructor raises `StartupError`, naming file and reason, if the model cannot be loaded.
    Other methods raise `OutOfMemory` if a job does not fit on the device, and `DeviceFailed` if
    the device cannot be used any more.

    An engine may also have the attributes that `core.model.ModelInfo` describes, such as
    `languages`; without it, it speaks English. And `normalize_text(text, language) -> str`,
    which replaces characters that the model was not trained on before the text is split, and keeps
    its pauses (`text.pauses`); without it, `text.punctuation.plain_punctuation` is applied. And
    `prepare_kept_voice(samples, rate, path)`, which does as `prepare_voice`, but may keep what it
    computes in a private file at `path` with a suffix of its own before that of `path`; files so
    named are deleted with the voice. And `recorded_tokens(chunk, params)`, as `speech_tokens` of a
    `RecordedChunk`, where `converts_speech` is true.
    """

    name: str
    sample_rate: int
    """In Hz; must be `SAMPLE_RATE`."""

    clones_voices: bool
    compiled: bool
    notice: str | None
    """A message for the service's operator, once the engine is warm."""

    default_voice: Voice
    steps: int
    """Counts units of work. Those that belong to one job also call `progress.step()` in its
    context, unless a slice or a piece of audio follows soon."""

    runaways: int
    """Counts text chunks that were cut off at their length limit."""

    async def prepare_voice(self, samples: Samples, rate: int) -> Voice:
        """Prepare the voice in `samples` (float32 [n] at their native `rate`, Hz) for jobs."""
        ...

    def speech_tokens(
        self, chunk: TextChunk, voice: Voice, params: SynthesisParams
    ) -> AsyncGenerator[SpeechSlice, None]:
        """Stage 1: the chunk's speech tokens, about `params.audio_tokens_per_slice` per slice.

        The caller closes the generator, which returns when the work has stopped.
        """
        ...

    def new_decoder(self, voice: Voice, params: SynthesisParams, first_chunk: int = 0) -> Decoder:
        """A decoder for the text chunks of a job from index `first_chunk` on."""
        ...

    def new_watermark(self, state: bytes = b"") -> Watermark | None: ...

    async def warm_up(self) -> None:
        """Run every hot path once, so that the first request is not slower than others."""
        ...

    async def free_memory(self) -> None:
        """After `OutOfMemory`: release all caches."""
        ...

    async def close(self) -> None:
        """Stop all threads; no other call follows."""
        ...


async def prepare_voice(engine: Engine, samples: Samples, rate: int, path: Path) -> Voice:
    """Have the engine prepare a voice, and keep what it computes in `path` if it can."""
    if prepare := getattr(engine, "prepare_kept_voice", None):
        return await prepare(samples, rate, path)
    return await engine.prepare_voice(samples, rate)
