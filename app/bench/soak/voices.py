"""The voices of a soak as its clients know them: which version an id stood for, and when.

A change happens at some moment between its request and its answer, so two versions may be current
at the same time, as far as a client can tell. Times are those of `time.monotonic`, in seconds.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from time import monotonic

import numpy as np

from app.audio.encoder import wav_header
from app.bench.engine import voice_code

RATE = 8_000
LENGTH_S = 1.2


@dataclass
class Version:
    """One voice, by the engine's code for it; None is no voice at all."""

    voice: int | None
    since: float = -inf
    until: float = inf


class VoiceHistory:
    """All that one id has stood for.

    Whoever changes it holds `turn`, so that it knows what to expect; generations wait for nobody.
    """

    def __init__(self, voice_id: str) -> None:
        self.id = voice_id
        self.turn = asyncio.Lock()
        self._versions = [Version(None)]

    @property
    def now(self) -> int | None:
        """The latest version."""
        return self._versions[-1].voice

    @contextmanager
    def becoming(self, voice: int | None) -> Iterator[None]:
        """While a change is asked for and, unless this raises, answered as it should be."""
        before, after = self._versions[-1], Version(voice, monotonic())
        self._versions.append(after)
        yield
        before.until = monotonic()

    def between(self, since: float, until: float) -> set[int | None]:
        """All that a request from `since` to `until` may have met."""
        return {
            version.voice
            for version in self._versions
            if version.since <= until and version.until >= since
        }


def voice_file(number: int) -> tuple[bytes, int]:
    """A WAV file of noise, another for each `number`, and what the engine will call that voice."""
    noise = np.random.Generator(np.random.PCG64(number))
    samples = noise.integers(-20_000, 20_000, int(LENGTH_S * RATE), np.int16)
    pcm = samples.astype("<i2").tobytes()
    decoded = (samples / 32768).astype(np.float32)
    return wav_header(RATE, len(pcm)) + pcm, voice_code(decoded)
