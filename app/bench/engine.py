"""An engine whose speech a client can check by itself: noise that tells text, seed and voice.

    MODEL=app.bench.engine:SignalEngine

Real workers run it in real services; it needs nothing but numpy and almost no time. A letter of the
text makes one speech token of audio. Each `slow` in the text costs a pause, so that a job can be
left, or lose its worker, while it runs. A client that knows what it asked for has all of the
answer from `expected_pcm`, sample by sample: whatever is cut, mixed or another's is seen.
"""

import asyncio
import zlib
from collections.abc import AsyncGenerator
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from app.core.audio import SAMPLE_RATE, Samples
from app.core.engine_config import EngineConfig
from app.core.params import SynthesisParams
from app.engines.base import SpeechSlice, TextChunk
from app.text.chunking import split

SAMPLES_PER_TOKEN = 960
SLOW_S = 0.05
"""The pause that one `slow` costs, spread over its text chunk."""

DEFAULT_VOICE = 0
LOUDEST = 3000
FULL_SCALE = 32767

Pcm = NDArray[np.int16]
"""Mono, int16 little-endian [n]."""


def signal(chunk: TextChunk, seed: int, voice: int) -> Pcm:
    """All audio of a text chunk."""
    told = f"{seed} {voice} {chunk.index} {chunk.text}".encode()
    noise = np.random.Generator(np.random.PCG64(int.from_bytes(blake2b(told).digest())))
    return noise.integers(
        -LOUDEST, LOUDEST, len(chunk.text) * SAMPLES_PER_TOKEN, np.int16, endpoint=True
    )


def voice_code(samples: Samples) -> int:
    """Which voice this is; `samples` as they were decoded from its file."""
    return zlib.crc32(samples.tobytes())


def expected_pcm(text: str, params: SynthesisParams, voice: int = DEFAULT_VOICE) -> bytes:
    """All PCM of a (clean) text whose chunks are neither trimmed nor crossfaded ("zero")."""
    chunks = split(text, params.text_processing_chunk_size)
    return b"".join(
        signal(TextChunk(chunk, index), params.seed, voice).tobytes()
        for index, chunk in enumerate(chunks)
    )


class SignalEngine:
    """See `engines.base.Engine`. A voice is its code."""

    name = "signal"
    sample_rate = SAMPLE_RATE
    clones_voices = True
    compiled = False
    notice = None
    runaways = 0
    default_voice = DEFAULT_VOICE

    def __init__(self, config: EngineConfig) -> None:
        self.steps = 0

    async def prepare_voice(self, samples: Samples, rate: int) -> int:
        return voice_code(samples)

    async def speech_tokens(
        self, chunk: TextChunk, voice: int, params: SynthesisParams
    ) -> AsyncGenerator[SpeechSlice, None]:
        """The tokens are the samples already, int16 [n]."""
        audio = signal(chunk, params.seed, voice)
        step = params.audio_tokens_per_slice * SAMPLES_PER_TOKEN
        starts = range(0, len(audio), step)
        pause_s = chunk.text.count("slow") * SLOW_S / len(starts)
        for start in starts:
            self.steps += 1
            await asyncio.sleep(pause_s)
            yield SpeechSlice(audio[start : start + step], last=start == starts[-1])

    def new_decoder(self, voice: int, params: SynthesisParams) -> "SignalDecoder":
        return SignalDecoder()

    def new_watermark(self) -> None:
        """It must be heard as it is."""

    async def warm_up(self) -> None:
        pass

    async def free_memory(self) -> None:
        pass

    async def close(self) -> None:
        pass


class PacedEngine(SignalEngine):
    """Gives each slice of a text chunk when a listener is due to have heard those before it."""

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
    """See `engines.base.Decoder`."""

    async def decode(self, piece: SpeechSlice) -> Samples:
        audio: Samples = piece.tokens.astype(np.float32) / FULL_SCALE
        return audio
