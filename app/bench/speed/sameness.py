"""Whether two programs said the same. What differs is raised as `EngineFailed`, in one line.

Called by `speed` with what the package and this engine said, before any time of theirs counts.
"""

import numpy as np
from numpy.typing import NDArray

from app.core.audio import Samples
from app.core.errors import EngineFailed

MOST_DIFFERENT_DB = -45
"""How loud the difference of two waveforms may be beside one of them.

Rounding alone makes it -54 to -71, depending on the seed; a guidance of 0.701 in place of 0.7 makes
it -25 or more.
"""

LEAST_CORRELATED = 0.4
"""How alike two streams' spectra must be: 0.65 where all is well, 0 for another seed."""

_FRAME, _HOP, _BANDS = 2048, 480, 20
_SILENCE = 1e-2
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


def same_waveform(audio: Samples, right: Samples, who: str, *, rounded: bool = False) -> float:
    """How loud the difference is, in dB; float32 [n] both.

    `rounded`: one comes of coarser products, by which a voice may begin a moment sooner; so that
    only spectra can be compared.
    """
    _same_length(audio, right, who)
    part = np.square(audio - right).mean() / np.square(right).mean()
    difference = float(10 * np.log10(np.maximum(part, _NOTHING)))
    if rounded:
        same_sound(audio, right, who)
    elif not difference < MOST_DIFFERENT_DB:  # nor if it is no number
        raise EngineFailed(
            f"{who}: the waveforms are {difference:.0f} dB apart, not {MOST_DIFFERENT_DB}"
        )
    return difference


def same_sound(audio: Samples, right: Samples, who: str) -> float:
    """How far the logarithmic spectra are correlated, 0 to 1; float32 [n] both.

    For streams, whose waveforms are not alike: S3Gen changes its mind about a moment when it has
    heard more.
    """
    _same_length(audio, right, who)
    own, rights = _movement(audio), _movement(right)
    correlation = float(
        (own * rights).sum() / np.sqrt(np.square(own).sum() * np.square(rights).sum())
    )
    if not correlation > LEAST_CORRELATED:
        raise EngineFailed(
            f"{who}: the spectra are correlated by {correlation:.2f}, not {LEAST_CORRELATED}"
        )
    return correlation


def _same_length(audio: Samples, right: Samples, who: str) -> None:
    if len(audio) != len(right):
        raise EngineFailed(f"{who}: {len(audio)} samples, not {len(right)}")


def _movement(audio: Samples) -> NDArray[np.float64]:
    """How the logarithm of the power in each of some bands departs from its mean: [frames, bands].

    A frame every 20 ms. The mean itself is the model's and the watermark's, not the speech's.
    """
    frames = np.lib.stride_tricks.sliding_window_view(audio, _FRAME)[::_HOP]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(_FRAME))))
    edges = np.linspace(0, power.shape[1], _BANDS, endpoint=False).astype(int)
    bands = np.log(np.add.reduceat(power, edges, axis=1) + _SILENCE)
    movement: NDArray[np.float64] = bands - bands.mean(axis=0)
    return movement
