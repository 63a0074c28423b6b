"""Checks that two programs produced the same tokens or audio; they raise `EngineFailed` if not.

Called by `bench.engine` before any time is counted. `label` names both sides in the message.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.core.audio import Samples
from app.core.errors import EngineFailed

MAX_DIFFERENCE_DB = -45
"""Level of the difference of two waveforms, relative to one of them.

Rounding alone gives -54 to -71, depending on the seed; a guidance of 0.701 in place of 0.7 gives
-25 or more.
"""

MIN_CORRELATION = 0.3
"""Correlation of two streams' spectra: 0.65 for the same speech by ten steps, 0.37 to 0.47 by mean
flow's two; 0 for another seed."""

_FRAME, _HOP, _BANDS = 2048, 480, 20
_POWER_FLOOR = 1e-2
_RATIO_FLOOR = 1e-20

Tokens = NDArray[np.int64]


def check_tokens(tokens: Tokens, expected: Tokens, label: str) -> None:
    at = common_prefix(tokens, expected)
    if at < min(len(tokens), len(expected)):
        raise EngineFailed(
            f"{label}: token {at + 1} of {len(expected)} is {tokens[at]}, not {expected[at]}"
        )
    _check_length("tokens", tokens, expected, label)


def check_token_count(count: int, expected: int, label: str) -> None:
    """Allow a tenth to be missing: special tokens are not passed on."""
    if not 0.9 * expected <= count <= expected:
        raise EngineFailed(f"{label}: {count} tokens, not {expected}")


def common_prefix(tokens: Tokens, expected: Tokens) -> int:
    """Return how many tokens are equal before the first difference."""
    length = min(len(tokens), len(expected))
    different = np.flatnonzero(tokens[:length] != expected[:length])
    return int(different[0]) if len(different) else length


def check_waveform(
    audio: Samples, expected: Samples, label: str, *, rounded: bool = False
) -> float:
    """Return the level of the difference in dB; both are float32 [n].

    `rounded`: one side multiplies in bfloat16, which may shift the onset of a voice, so only the
    spectra are checked.
    """
    _check_length("samples", audio, expected, label)
    ratio = np.square(audio - expected).mean() / np.square(expected).mean()
    difference_db = float(10 * np.log10(np.maximum(ratio, _RATIO_FLOOR)))
    if rounded:
        check_spectrum(audio, expected, label)
    elif not difference_db < MAX_DIFFERENCE_DB:  # true for NaN, too
        raise EngineFailed(
            f"{label}: the waveforms are {difference_db:.0f} dB apart, not {MAX_DIFFERENCE_DB}"
        )
    return difference_db


def check_spectrum(audio: Samples, expected: Samples, label: str) -> float:
    """Return the correlation of the logarithmic spectra, 0 to 1; both are float32 [n].

    A stream's waveform differs from that of one decode, since S3Gen revises a moment when it has
    more context; its spectrum moves alike.
    """
    _check_length("samples", audio, expected, label)
    own, other = _spectral_movement(audio), _spectral_movement(expected)
    correlation = float(
        (own * other).sum() / np.sqrt(np.square(own).sum() * np.square(other).sum())
    )
    if not correlation > MIN_CORRELATION:
        raise EngineFailed(
            f"{label}: the spectra are correlated by {correlation:.2f}, not {MIN_CORRELATION}"
        )
    return correlation


def _check_length(unit: str, values: NDArray[Any], expected: NDArray[Any], label: str) -> None:
    if len(values) != len(expected):
        raise EngineFailed(f"{label}: {len(values)} {unit}, not {len(expected)}")


def _spectral_movement(audio: Samples) -> NDArray[np.float64]:
    """Return the deviation of each band's log power from its mean, [frames, bands], every 20 ms.

    The mean is left out because it depends on the model and the watermark, not on the speech.
    """
    frames = np.lib.stride_tricks.sliding_window_view(audio, _FRAME)[::_HOP]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(_FRAME))))
    edges = np.linspace(0, power.shape[1], _BANDS, endpoint=False).astype(int)
    bands = np.log(np.add.reduceat(power, edges, axis=1) + _POWER_FLOOR)
    movement: NDArray[np.float64] = bands - bands.mean(axis=0)
    return movement
