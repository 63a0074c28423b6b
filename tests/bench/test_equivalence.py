import numpy as np
import pytest

from app.bench.equivalence import (
    check_spectrum,
    check_token_count,
    check_tokens,
    check_waveform,
    common_prefix,
)
from app.core.errors import EngineFailed

TOKENS = np.arange(70)
NOISE = np.random.default_rng(1).normal(0, 0.1, (2, 48_000)).astype(np.float32)


def test_first_different_token_is_named() -> None:
    check_tokens(TOKENS, TOKENS.copy(), "T3")
    other = np.where(np.arange(70) == 16, 99, TOKENS)
    with pytest.raises(EngineFailed, match="T3: token 17 of 70 is 99, not 16"):
        check_tokens(other, TOKENS, "T3")
    with pytest.raises(EngineFailed, match="T3: 60 tokens, not 70"):
        check_tokens(TOKENS[:60], TOKENS, "T3")
    assert (common_prefix(other, TOKENS), common_prefix(TOKENS[:60], TOKENS)) == (16, 60)


def test_tenth_of_tokens_may_be_missing() -> None:
    check_token_count(63, 70, "T3")
    for count in (62, 71):
        with pytest.raises(EngineFailed, match=f"T3: {count} tokens, not 70"):
            check_token_count(count, 70, "T3")


def test_waveforms_may_differ_by_rounding() -> None:
    right, other = NOISE
    assert check_waveform(right, right, "S3Gen") == -200
    assert check_waveform(right + 1e-3 * other, right, "S3Gen") == pytest.approx(-60, abs=0.5)
    for wrong in (right + 1e-2 * other, right * np.float32("nan"), right[1:], 0.9 * right):
        with pytest.raises(EngineFailed, match=r"S3Gen: "):
            check_waveform(wrong, right, "S3Gen")


def test_spectra_correlate_for_different_phases() -> None:
    loudness = np.repeat(np.random.default_rng(2).uniform(0.1, 1, 40), 1200).astype(np.float32)
    right, same = loudness * NOISE
    assert check_spectrum(same, right, "the stream") > 0.6
    for wrong in (same[::-1], NOISE[1], np.zeros_like(right), right[1:]):
        with pytest.raises(EngineFailed, match=r"the stream: "):
            check_spectrum(wrong, right, "the stream")
