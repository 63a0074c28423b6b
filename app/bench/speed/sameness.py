"""Whether two programs said the same. What differs is raised as `EngineFailed`, in one line.

Called by `speed` with what the package and this engine said, before any time of theirs counts.
"""

import numpy as np
from numpy.typing import NDArray

from app.engines.base import Samples
from app.errors import EngineFailed

MOST_DIFFERENT_DB = -55
"""How loud the difference of two waveforms may be beside one of them; rounding is at -60."""

MOST_DIFFERENT_SPECTRA = 0.5
"""In standard deviations of the right one's. Another noise makes it about 1."""

_FRAME, _HOP, _BANDS = 1024, 480, 40
_SILENCE = 1e-6
_NOTHING = 1e-20

Tokens = NDArray[np.int64]


def same_tokens(tokens: Tokens, right: Tokens, who: str) -> None:
    """`who`: whose tokens these are, and beside whose."""
    if np.array_equal(tokens, right):
        return
    at = alike(tokens, right)
    if at == min(len(tokens), len(right)):
        raise EngineFailed(f"{who}: {len(tokens)} tokens, not {len(right)}")
    raise EngineFailed(f"{who}: token {at + 1} of {len(right)} is {tokens[at]}, not {right[at]}")


def same_count(count: int, asked: int, who: str) -> None:
    """A few may be no speech, and are left out."""
    if not 0.9 * asked <= count <= asked:
        raise EngineFailed(f"{who}: {count} tokens, not {asked}")


def alike(tokens: Tokens, right: Tokens) -> int:
    """How many tokens are the same before one is not."""
    length = min(len(tokens), len(right))
    other = np.flatnonzero(tokens[:length] != right[:length])
    return int(other[0]) if len(other) else length


def same_waveform(audio: Samples, right: Samples, who: str) -> float:
    """How loud the difference is, in dB; float32 [n] both."""
    _same_length(audio, right, who)
    part = np.square(audio - right).mean() / np.square(right).mean()
    difference = float(10 * np.log10(np.maximum(part, _NOTHING)))
    if not difference < MOST_DIFFERENT_DB:  # nor if it is no number
        raise EngineFailed(
            f"{who}: the waveforms are {difference:.0f} dB apart, not {MOST_DIFFERENT_DB}"
        )
    return difference


def same_sound(audio: Samples, right: Samples, who: str) -> float:
    """How far the logarithmic spectra are apart, in standard deviations; float32 [n] both.

    For streams: S3Gen changes its mind about a moment when it has heard more, and so do phases.
    """
    _same_length(audio, right, who)
    own, rights = _spectra(audio), _spectra(right)
    distance = float(np.sqrt(np.square(own - rights).mean()) / rights.std())
    if not distance < MOST_DIFFERENT_SPECTRA:
        raise EngineFailed(
            f"{who}: the spectra are {distance:.2f} standard deviations apart, "
            f"not {MOST_DIFFERENT_SPECTRA}"
        )
    return distance


def _same_length(audio: Samples, right: Samples, who: str) -> None:
    if len(audio) != len(right):
        raise EngineFailed(f"{who}: {len(audio)} samples, not {len(right)}")


def _spectra(audio: Samples) -> NDArray[np.float64]:
    """Logarithms of the power in `_BANDS` bands of equal width, every 20 ms: [frames, bands]."""
    frames = np.lib.stride_tricks.sliding_window_view(audio, _FRAME)[::_HOP]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(_FRAME))))
    edges = np.linspace(0, power.shape[1], _BANDS, endpoint=False).astype(int)
    logarithms: NDArray[np.float64] = np.log(np.add.reduceat(power, edges, axis=1) + _SILENCE)
    return logarithms
