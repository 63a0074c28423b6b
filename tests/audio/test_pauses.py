import numpy as np
import pytest

from app.audio.pauses import split_at_pauses

RATE = 16_000
TOKEN = 640


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, int(seconds * RATE)).astype(np.float32)


@pytest.mark.parametrize("seconds", [0.01, 9.99, 10, 10.01, 35.5])
def test_pieces_are_the_recording_and_none_is_too_long(seconds: float) -> None:
    speech = noise(seconds)
    pieces = split_at_pauses(speech, RATE, 10)
    assert np.array_equal(np.concatenate(pieces), speech)
    assert all(len(piece) <= 10 * RATE for piece in pieces)
    assert all(len(piece) % TOKEN == 0 for piece in pieces[:-1])
    assert len(pieces) == 1 or all(len(piece) >= TOKEN for piece in pieces)


def test_pieces_overlap_by_some_tokens() -> None:
    speech = noise(35.5)
    apart = split_at_pauses(speech, RATE, 10)
    overlapping = split_at_pauses(speech, RATE, 10, overlap=2)
    assert len(overlapping) == len(apart) > 3
    assert np.array_equal(overlapping[0], apart[0])
    for before, piece, longer in zip(apart, apart[1:], overlapping[1:], strict=False):
        assert np.array_equal(longer, np.concatenate([before[-2 * TOKEN :], piece]))


def test_it_is_cut_where_it_is_quiet() -> None:
    speech = noise(15)
    speech[int(8.3 * RATE) : int(8.6 * RATE)] = 0
    first, _ = split_at_pauses(speech, RATE, 10)
    assert 8.3 * RATE < len(first) < 8.6 * RATE
