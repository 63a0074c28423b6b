"""Measures how many seconds of a recording are sound rather than silence.

Used by the decoder, which rejects voices that are mostly silence.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from app.core.audio import Samples

WINDOW_S = 0.02

MIN_LEVEL = 1e-3
"""A window counts as sound from this level on, as a part of full scale (-60 dBFS) …"""

MIN_RELATIVE_LEVEL = 1e-2
"""… and from this part (-40 dB) of the loudest window on: the rest is hiss, room and breath."""


class ActivityMeter:
    """Takes float32 samples at `rate` Hz, in pieces of any length."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._window = max(1, round(WINDOW_S * rate))
        self._rest: Samples = np.empty(0, np.float32)
        self._levels: list[Samples] = []

    def add(self, samples: "Samples") -> None:
        samples = np.concatenate([self._rest, samples])
        complete = len(samples) // self._window * self._window
        self._levels.append(_rms(samples[:complete].reshape(-1, self._window)))
        self._rest = samples[complete:]

    def active_s(self) -> float:
        """Seconds of sound so far, in windows of 20 ms, of which the last may be shorter."""
        levels = np.concatenate([np.empty(0, np.float32), *self._levels])
        lengths = np.full(len(levels), self._window)
        if len(self._rest):
            levels = np.append(levels, _rms(self._rest))
            lengths = np.append(lengths, len(self._rest))
        threshold = max(MIN_LEVEL, MIN_RELATIVE_LEVEL * float(levels.max(initial=0)))
        return float(lengths[levels > threshold].sum() / self._rate)


def _rms(windows: "Samples") -> "Samples":
    level: Samples = np.sqrt(np.mean(np.square(windows), axis=-1))
    return level
