"""What an engine is: text chunk in, speech tokens, audio out. The pipeline knows nothing else.

Async on purpose: behind these methods an engine owns its threads and may advance all its jobs
together in one step loop. A job is cancelled by cancelling the task that awaits it; an engine
looks for that between steps, and its awaitable returns only when the work has really stopped.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Protocol

from app.core.audio import Samples
from app.core.params import SynthesisParams

Voice = Any
"""What an engine makes of a voice's audio: a value that belongs to that engine."""


@dataclass(frozen=True)
class TextChunk:
    """One piece of the text, short enough to be spoken in one go."""

    text: str
    index: int


@dataclass(frozen=True)
class SpeechSlice:
    """Some speech tokens of a text chunk, in the engine's own form; `last` ends the chunk.

    The last slice may be empty: an engine often learns of the end after the fact.
    """

    tokens: Any
    last: bool


class Decoder(Protocol):
    """Turns the slices of one job into audio, in order; carries that stream's state."""

    async def decode(self, piece: SpeechSlice) -> Samples:
        """The audio that this slice adds, at the engine's rate."""
        ...


class Watermark(Protocol):
    """Marks the joined audio of one job as synthetic, while it passes."""

    def push(self, audio: Samples, last: bool) -> Samples:
        """What is settled after `audio`, float32 [n], of which `last` ends the stream.

        Returns float32 [m], in all as much as went in.
        """
        ...


class Engine(Protocol):
    """A speech model. Constructed with an `EngineConfig` on the worker's main thread.

    Raises `StartupError` from the constructor when it cannot load, naming file and reason. Later
    `OutOfMemory` says that a job found no room on the device, `DeviceFailed` that none ever will.
    """

    name: str
    sample_rate: int
    """In Hz; `SAMPLE_RATE`, or it is refused."""

    clones_voices: bool
    compiled: bool
    notice: str | None
    """What whoever runs the service should know, once the engine is warm."""

    default_voice: Voice
    steps: int
    """Counts units of work; standing still while jobs run means that the engine hangs."""

    runaways: int
    """Counts text chunks that were cut since they took implausibly long."""

    async def prepare_voice(self, samples: Samples, rate: int) -> Voice:
        """The voice in `samples` (at their native rate, Hz), ready for immediate use."""
        ...

    def normalize_text(self, text: str) -> str:
        """Replace characters that the model was not trained on, before the text is split.

        Optional: without it, `text.punctuation.plain_punctuation` is applied.
        """
        ...

    def speech_tokens(
        self, chunk: TextChunk, voice: Voice, params: SynthesisParams
    ) -> AsyncGenerator[SpeechSlice, None]:
        """Stage 1: the chunk's speech tokens, in slices of `params.audio_tokens_per_slice` or so.

        The caller closes the generator, which returns when the work has really stopped.
        """
        ...

    def new_decoder(self, voice: Voice, params: SynthesisParams) -> Decoder:
        """Stage 2, for one job."""
        ...

    def new_watermark(self) -> Watermark | None:
        """For the audio of one job; None where it is to stay as it is."""
        ...

    async def warm_up(self) -> None:
        """Run every hot path once, so that the first request meets none of it cold."""
        ...

    async def free_memory(self) -> None:
        """After `OutOfMemory`: give up whatever is kept for speed alone."""
        ...

    async def close(self) -> None:
        """Stop all threads; no other call follows."""
        ...
