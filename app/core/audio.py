"""The format of all audio between engine, worker and client."""

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # the master needs no numpy to start
    import numpy as np
    from numpy.typing import NDArray

SAMPLE_RATE = 24_000
"""Of all audio between worker and client, in Hz; it is mono, int16 little-endian ("PCM")."""

BYTES_PER_SAMPLE = 2

TOKENS_PER_SECOND = 25
"""Speech tokens per second of audio, the unit of `audio_tokens_per_slice`."""

SAMPLES_PER_TOKEN = SAMPLE_RATE // TOKENS_PER_SECOND

Samples: TypeAlias = "NDArray[np.float32]"
"""Mono audio, float32 [n], full scale ±1."""
