import numpy as np
import pytest

from app.bench.speed.sameness import alike, same_count, same_sound, same_tokens, same_waveform
from app.core.errors import EngineFailed

TOKENS = np.arange(70)
NOISE = np.random.default_rng(1).normal(0, 0.1, (2, 48_000)).astype(np.float32)


def test_tokens_are_compared_one_by_one() -> None:
    same_tokens(TOKENS, TOKENS.copy(), "T3")
    other = np.where(np.arange(70) == 16, 99, TOKENS)
    with pytest.raises(EngineFailed, match="T3: token 17 of 70 is 99, not 16"):
        same_tokens(other, TOKENS, "T3")
    with pytest.raises(EngineFailed, match="T3: 60 tokens, not 70"):
        same_tokens(TOKENS[:60], TOKENS, "T3")
    assert (alike(other, TOKENS), alike(TOKENS[:60], TOKENS)) == (16, 60)


def test_a_few_tokens_may_be_no_speech() -> None:
    same_count(63, 70, "T3")
    for count in (62, 71):
        with pytest.raises(EngineFailed, match=f"T3: {count} tokens, not 70"):
            same_count(count, 70, "T3")


def test_waveforms_may_differ_by_rounding_only() -> None:
    right, other = NOISE
    assert same_waveform(right, right, "S3Gen") == -200
    assert same_waveform(right + 1e-3 * other, right, "S3Gen") == pytest.approx(-60, abs=0.5)
    for wrong in (right + 1e-2 * other, right * np.float32("nan"), right[1:], 0.9 * right):
        with pytest.raises(EngineFailed, match=r"S3Gen: "):
            same_waveform(wrong, right, "S3Gen")


def test_sounds_move_alike_whatever_their_phases() -> None:
    loudness = np.repeat(np.random.default_rng(2).uniform(0.1, 1, 40), 1200).astype(np.float32)
    right, same = loudness * NOISE
    assert same_sound(same, right, "the stream") > 0.6
    for wrong in (same[::-1], NOISE[1], np.zeros_like(right), right[1:]):
        with pytest.raises(EngineFailed, match=r"the stream: "):
            same_sound(wrong, right, "the stream")
