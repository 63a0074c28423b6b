"""An engine whose audio is noise seeded by text, seed and voice; clients compute it themselves.

    MODEL=tests.support.signal_engine:SignalEngine

Any cut, lost, repeated or mixed-up sample is detected. Each letter makes one speech token. Each
`slow` in the text costs a pause, so that a client can leave, or a worker die, during a job.
"""

import asyncio
import zlib
from collections.abc import AsyncGenerator
from hashlib import blake2b

import numpy as np
import soxr
from numpy.typing import NDArray

from app.core.audio import BYTES_PER_SAMPLE, SAMPLE_RATE, Samples
from app.core.params import SynthesisParams
from app.engines.base import RecordedChunk, SpeechSlice, TextChunk
from app.text.chunking import split
from tests.support.engines import SAMPLES_PER_TOKEN, ScriptedEngine

SLOW_S = 0.05
"""The pause for one `slow`, spread over its text chunk."""

DEFAULT_VOICE = 0
PEAK = 3000
FULL_SCALE = 32767


def signal(chunk: TextChunk, seed: int, voice: int) -> NDArray[np.int16]:
    """Return the audio of a text chunk, int16 [n]."""
    label = f"{seed} {voice} {chunk.index} {chunk.text}".encode()
    noise = np.random.Generator(np.random.PCG64(int.from_bytes(blake2b(label).digest())))
    count = len(chunk.text) * SAMPLES_PER_TOKEN
    return noise.integers(-PEAK, PEAK, count, np.int16, endpoint=True)


def voice_code(samples: Samples) -> int:
    """Return the number that stands for a voice; `samples` as decoded from its file."""
    return zlib.crc32(samples.tobytes())


def expected_pcm(text: str, params: SynthesisParams, voice: int = DEFAULT_VOICE) -> bytes:
    """Return the PCM of a clean text whose chunks are not crossfaded (overlap "zero")."""
    chunks = split(text, params.text_processing_chunk_size)
    return b"".join(
        signal(chunk, params.seed, voice).tobytes()
        + bytes(BYTES_PER_SAMPLE * round(chunk.pause_s * SAMPLE_RATE))
        for chunk in chunks
    )


class SignalEngine(ScriptedEngine):
    name = "signal"
    default_voice = DEFAULT_VOICE

    async def prepare_voice(self, samples: Samples, rate: int) -> int:
        return voice_code(samples)

    async def speech_tokens(
        self, chunk: TextChunk, voice: int, params: SynthesisParams
    ) -> AsyncGenerator[SpeechSlice, None]:
        """Yield the samples, int16 [n], in place of tokens."""
        audio = signal(chunk, params.seed, voice)
        step = params.audio_tokens_per_slice * SAMPLES_PER_TOKEN
        starts = range(0, len(audio), step)
        pause_s = chunk.text.count("slow") * SLOW_S / len(starts)
        for start in starts:
            self.steps += 1
            await asyncio.sleep(pause_s)
            yield SpeechSlice(audio[start : start + step], last=start == starts[-1])

    def new_decoder(
        self, voice: int, params: SynthesisParams, first_chunk: int = 0
    ) -> "SignalDecoder":
        return SignalDecoder()


class ConvertingEngine(SignalEngine):
    """Says a recording as it is."""

    converts_speech = True

    async def recorded_tokens(
        self, chunk: RecordedChunk, params: SynthesisParams
    ) -> AsyncGenerator[SpeechSlice, None]:
        audio = soxr.resample(chunk.speech, chunk.rate, SAMPLE_RATE)
        samples = (audio.clip(-1, 1) * FULL_SCALE).astype(np.int16)
        yield SpeechSlice(samples[:24_000], last=False)
        yield SpeechSlice(samples[24_000:], last=True)


class PacedEngine(SignalEngine):
    """Yields each slice when a player has played those before it."""

    async def speech_tokens(
        self, chunk: TextChunk, voice: int, params: SynthesisParams
    ) -> AsyncGenerator[SpeechSlice, None]:
        loop = asyncio.get_running_loop()
        due = loop.time()
        async for piece in super().speech_tokens(chunk, voice, params):
            await asyncio.sleep(due - loop.time())
            due += len(piece.tokens) / SAMPLE_RATE
            yield piece


class SignalDecoder:
    async def decode(self, piece: SpeechSlice) -> Samples:
        audio: Samples = piece.tokens.astype(np.float32) / FULL_SCALE
        return audio
