"""The voices of a soak, and the times at which each version was current."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from time import monotonic

import numpy as np

from app.audio.encoder import wav_header
from tests.support.signal_engine import voice_code

RATE = 8_000
LENGTH_S = 1.2


class VoiceHistory:
    """All versions of one voice id; a client holds `lock` while it changes the voice.

    A version is the engine's code for it, or None while there is no such voice. Times are those of
    `time.monotonic`.
    """

    def __init__(self, voice_id: str) -> None:
        self.id = voice_id
        self.lock = asyncio.Lock()
        self.current: int | None = None
        self._since = -inf
        self._earlier: list[tuple[int | None, float, float]] = []

    @contextmanager
    def changing_to(self, voice: int | None) -> Iterator[None]:
        """Record a change that takes effect between its request and its response, both inside.

        After an error both versions may hold.
        """
        before, since = self.current, self._since
        self.current, self._since = voice, monotonic()
        self._earlier.append((before, since, inf))
        yield
        self._earlier[-1] = (before, since, monotonic())

    def between(self, since: float, until: float) -> set[int | None]:
        """Return the versions that a request during that time may have used."""
        versions = [*self._earlier, (self.current, self._since, inf)]
        return {voice for voice, began, ended in versions if began <= until and ended >= since}


def voice_file(number: int) -> tuple[bytes, int]:
    """Return a WAV file of noise seeded by `number`, and the engine's code for that voice."""
    noise = np.random.Generator(np.random.PCG64(number))
    samples = noise.integers(-20_000, 20_000, int(LENGTH_S * RATE), np.int16)
    pcm = samples.astype("<i2").tobytes()
    decoded = (samples / 32768).astype(np.float32)
    return wav_header(RATE, len(pcm)) + pcm, voice_code(decoded)
