import numpy as np
import pytest

from app.audio.speech_activity import ActivityMeter
from tests.support.media import tone


def active_s(*pieces, rate=16_000) -> float:
    meter = ActivityMeter(rate)
    for piece in pieces:
        meter.add(piece)
    return meter.active_s()


def silence(seconds, rate=16_000):
    return np.zeros(round(seconds * rate), np.float32)


def hiss(seconds, level):
    noise = np.random.default_rng(0).normal(0, level, round(seconds * 16_000))
    return noise.astype(np.float32)


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 384_000])
def test_sound_is_counted_to_the_sample(rate):
    assert active_s(tone(1.234, rate), rate=rate) == pytest.approx(1.234, abs=1e-4)


def test_silence_is_not_counted():
    assert active_s() == 0
    assert active_s(silence(5)) == 0
    parts = [tone(0.3), silence(2), tone(0.5), silence(3)]
    assert active_s(*parts) == pytest.approx(0.8, abs=0.04)


def test_result_does_not_depend_on_piece_lengths():
    whole = np.concatenate([tone(0.31), silence(0.77), tone(0.5)])
    cuts = np.sort(np.random.default_rng(1).integers(0, len(whole), 100))
    assert active_s(*np.split(whole, cuts)) == active_s(whole)


def test_hiss_between_words_is_silence():
    assert active_s(hiss(5, 0.001), tone(0.5)) == pytest.approx(0.5, abs=0.02)


def test_activity_is_relative_to_the_loudest_window():
    assert active_s(tone(2, level=0.005)) == pytest.approx(2)


def test_inaudible_noise_is_silence():
    assert active_s(hiss(5, 0.0005)) == 0
