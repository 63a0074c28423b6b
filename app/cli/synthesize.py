"""Speech in this process, without a server: the engine and pipeline that a worker runs, to a file.

Called by `chatterbox-tts speak`.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import BinaryIO

from app.audio.encoder import Encoder
from app.audio.sandbox import decode_file, load_decoded
from app.core.audio import BYTES_PER_SAMPLE, SAMPLE_RATE
from app.core.engine_config import QueueSizes
from app.core.params import SynthesisParams
from app.engines.base import Engine, Voice
from app.pipeline.pipeline import Pipeline


@dataclass
class Timing:
    """Seconds: until the first audio, in all, and of audio."""

    first_audio_s: float
    total_s: float
    audio_s: float

    @property
    def real_time_factor(self) -> float:
        return self.total_s / self.audio_s if self.audio_s else float("inf")


async def voice_from_file(engine: Engine, source: Path) -> Voice:
    """The voice in an audio file. Raises `UnusableAudio`."""
    with tempfile.TemporaryDirectory() as folder:
        decoded = Path(folder) / "voice"
        await decode_file(source, decoded)
        samples, rate = load_decoded(decoded)
    return await engine.prepare_voice(samples, rate)


async def speak_to_file(
    engine: Engine,
    text: str,
    voice: Voice,
    params: SynthesisParams,
    sizes: QueueSizes,
    encoder: Encoder,
    output: BinaryIO,
    on_chunk: Callable[[int, int], None],
) -> Timing:
    """Write the speech to `output`; `on_chunk(done, in all)` counts text chunks."""
    pipeline = Pipeline(engine, sizes)
    timing = Timing(0.0, 0.0, 0.0)
    began = perf_counter()
    samples = 0
    pieces: list[bytes] = []

    async def write(pcm: bytes) -> None:
        nonlocal samples
        if not samples:
            timing.first_audio_s = perf_counter() - began
        samples += len(pcm) // BYTES_PER_SAMPLE
        pieces.append(encoder.encode(pcm))

    try:
        await pipeline.run(text, voice, params, write, on_chunk)
    finally:
        pipeline.close()
    pieces.append(encoder.finish())
    output.write(encoder.as_file(b"".join(pieces)))
    timing.total_s = perf_counter() - began
    timing.audio_s = samples / SAMPLE_RATE
    return timing
