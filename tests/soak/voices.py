"""The voices of a soak, and the times at which each version was current.

A change takes effect between its request and its response, so a client may meet either version
meanwhile. Times are those of `time.monotonic`.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from time import monotonic

import numpy as np

from app.audio.encoder import wav_header
from tests.support.signal_engine import voice_code

RATE = 8_000
LENGTH_S = 1.2


@dataclass
class Version:
    """A voice by the engine's code for it, or None if the voice is deleted."""

    voice: int | None
    since: float = -inf
    until: float = inf


class VoiceHistory:
    """All versions of one voice id; a client holds `lock` while it changes the voice."""

    def __init__(self, voice_id: str) -> None:
        self.id = voice_id
        self.lock = asyncio.Lock()
        self._versions = [Version(None)]

    @property
    def current(self) -> int | None:
        return self._versions[-1].voice

    @contextmanager
    def changing_to(self, voice: int | None) -> Iterator[None]:
        """Record a change whose request and response are inside; after an error both may hold."""
        before, after = self._versions[-1], Version(voice, monotonic())
        self._versions.append(after)
        yield
        before.until = monotonic()

    def between(self, since: float, until: float) -> set[int | None]:
        """Return the versions that a request during that time may have used."""
        return {
            version.voice
            for version in self._versions
            if version.since <= until and version.until >= since
        }


def voice_file(number: int) -> tuple[bytes, int]:
    """Return a WAV file of noise seeded by `number`, and the engine's code for that voice."""
    noise = np.random.Generator(np.random.PCG64(number))
    samples = noise.integers(-20_000, 20_000, int(LENGTH_S * RATE), np.int16)
    pcm = samples.astype("<i2").tobytes()
    decoded = (samples / 32768).astype(np.float32)
    return wav_header(RATE, len(pcm)) + pcm, voice_code(decoded)
