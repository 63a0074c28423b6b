"""A meter of how much of a recording is sound: fed by the decoder, which refuses voices that are
mostly silence. Numpy only.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from app.core.audio import Samples

WINDOW_S = 0.02

FAINTEST = 1e-3
"""The level, as a part of full scale (-60 dBFS), below which nothing counts as sound."""

DYNAMICS = 1e-2
"""Nor does what is so far (-40 dB) below the loudest moment: hiss, room, breath."""


class ActivityMeter:
    """Takes float32 samples at `rate` Hz as they come, in pieces of any length."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._window = max(1, round(WINDOW_S * rate))
        self._rest: Samples = np.empty(0, np.float32)
        self._levels: list[Samples] = []

    def add(self, samples: "Samples") -> None:
        samples = np.concatenate([self._rest, samples])
        whole = len(samples) // self._window * self._window
        self._levels.append(_level(samples[:whole].reshape(-1, self._window)))
        self._rest = samples[whole:]

    def active_s(self) -> float:
        """Seconds of sound so far, in windows of 20 ms; what is left after the last one counts."""
        levels = np.concatenate([np.empty(0, np.float32), *self._levels])
        lengths = np.full(len(levels), self._window)
        if len(self._rest):
            levels = np.append(levels, _level(self._rest))
            lengths = np.append(lengths, len(self._rest))
        threshold = max(FAINTEST, DYNAMICS * float(levels.max(initial=0)))
        return float(lengths[levels > threshold].sum() / self._rate)


def _level(windows: "Samples") -> "Samples":
    """The root of the mean square over the last axis."""
    level: Samples = np.sqrt(np.mean(np.square(windows), axis=-1))
    return level
