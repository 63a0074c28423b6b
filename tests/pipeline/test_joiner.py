import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.audio import Samples
from app.core.errors import EngineFailed
from app.core.params import OverlapMethod, SynthesisParams
from app.pipeline.joiner import ChunkJoiner, crossfade, to_int16

RATE = 1000  # so that a millisecond is a sample
NOTHING: Samples = np.empty(0, np.float32)


def params(
    lead: int = 0, trail: int = 0, fade: int = 0, method: OverlapMethod = "full"
) -> SynthesisParams:
    return SynthesisParams(
        remove_leading_milliseconds=lead,
        remove_trailing_milliseconds=trail,
        chunk_overlap_method=method,
        crossfade_duration_milliseconds=fade,
    )


def noise(length: int, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).uniform(-1, 1, length).astype(np.float32)


def joined(
    params: SynthesisParams, chunks: list[Samples], cuts: list[list[int]] | None = None
) -> Samples:
    """The stream of `chunks`, each handed over in the slices that its `cuts` make."""
    joiner = ChunkJoiner(params, RATE)
    out = []
    for chunk, borders in zip(chunks, cuts or [[]] * len(chunks), strict=True):
        *slices, end = np.split(chunk, sorted(borders))
        out += [joiner.push(piece, last=False) for piece in slices]
        out.append(joiner.push(end, last=True))
    out.append(joiner.finish())
    return np.concatenate(out)


def expected_length(params: SynthesisParams, lengths: list[int]) -> int:
    cut = params.remove_leading_milliseconds + params.remove_trailing_milliseconds
    fade = params.crossfade_duration_milliseconds * (params.chunk_overlap_method == "full")
    left = [length - cut for length in lengths if length > cut]
    return sum(left) - sum(min(fade, a // 2, b // 2) for a, b in pairwise(left))


any_params = st.builds(
    params,
    st.integers(0, 40),
    st.integers(0, 40),
    st.integers(0, 60),
    st.sampled_from(["full", "zero"]),
)
any_lengths = st.lists(st.integers(0, 300), max_size=5)


@given(any_params, any_lengths, st.data())
def test_the_stream_does_not_depend_on_how_chunks_are_sliced(
    params: SynthesisParams, lengths: list[int], data: st.DataObject
) -> None:
    chunks = [noise(length, seed) for seed, length in enumerate(lengths)]
    cuts = [data.draw(st.lists(st.integers(0, n), max_size=6)) for n in lengths]
    np.testing.assert_array_equal(joined(params, chunks, cuts), joined(params, chunks))


@given(any_params, any_lengths)
def test_the_length_follows_from_the_chunks_lengths(
    params: SynthesisParams, lengths: list[int]
) -> None:
    stream = joined(params, [noise(length) for length in lengths])
    assert stream.dtype == np.float32
    assert len(stream) == expected_length(params, lengths)


@given(any_lengths, st.sampled_from(["full", "zero"]))
def test_without_trims_and_fade_nothing_changes(lengths: list[int], method: OverlapMethod) -> None:
    chunks = [noise(length, seed) for seed, length in enumerate(lengths)]
    np.testing.assert_array_equal(
        joined(params(method=method), chunks), np.concatenate([NOTHING, *chunks])
    )


def test_trims_take_the_start_and_the_end_of_every_chunk() -> None:
    first, second = noise(100, 1), noise(80, 2)
    stream = joined(params(lead=10, trail=20, method="zero"), [first, second])
    np.testing.assert_array_equal(stream, np.concatenate((first[10:-20], second[10:-20])))


def test_neighbours_overlap_in_an_equal_power_fade() -> None:
    first, second = noise(100, 1), noise(100, 2)
    stream = joined(params(fade=30), [first, second])
    np.testing.assert_array_equal(stream[:70], first[:70])
    np.testing.assert_array_equal(stream[70:100], crossfade(first[70:], second[:30]))
    np.testing.assert_array_equal(stream[100:], second[30:])


def test_a_fade_keeps_the_power_of_unrelated_sounds() -> None:
    faded = crossfade(noise(100_000, 1), noise(100_000, 2))
    assert np.mean(faded**2) == pytest.approx(1 / 3, rel=0.02)  # of uniform noise within ±1
    assert np.mean(faded[45_000:55_000] ** 2) == pytest.approx(1 / 3, rel=0.05)


def test_zero_overlap_ignores_the_fade() -> None:
    chunks = [noise(100, 1), noise(100, 2)]
    np.testing.assert_array_equal(
        joined(params(fade=30, method="zero"), chunks), np.concatenate(chunks)
    )


def test_a_word_shorter_than_the_fade_reaches_full_level() -> None:
    silence, word = np.zeros(500, np.float32), np.ones(40, np.float32)
    stream = joined(params(fade=100), [silence, word, silence])
    assert len(stream) == 500 + 40 + 500 - 2 * 20
    assert stream.max() == pytest.approx(1)


def test_a_chunk_trimmed_to_nothing_counts_as_absent() -> None:
    first, second = noise(200, 1), noise(200, 2)
    settings = params(lead=20, trail=20, fade=30)
    np.testing.assert_array_equal(
        joined(settings, [first, noise(40), second, noise(3)]), joined(settings, [first, second])
    )


def test_a_chunk_without_its_last_slice_ends_with_the_stream() -> None:
    joiner = ChunkJoiner(params(lead=10, trail=20, fade=30), RATE)
    audio = noise(100)
    stream = np.concatenate((joiner.push(audio, last=False), joiner.finish()))
    np.testing.assert_array_equal(stream, audio[10:-20])


def test_it_holds_back_only_the_trailing_trim_and_the_fade() -> None:
    joiner = ChunkJoiner(params(lead=10, trail=20, fade=30), RATE)
    assert len(joiner.push(noise(1000), last=False)) == 1000 - 10 - 20 - 30
    assert len(joiner.push(noise(500), last=False)) == 500
    assert len(joiner.push(NOTHING, last=True)) == 0
    assert len(ChunkJoiner(params(), RATE).push(noise(7), last=False)) == 7


def test_milliseconds_are_counted_at_the_sample_rate() -> None:
    joiner = ChunkJoiner(params(lead=100), 24_000)
    assert len(joiner.push(noise(24_000), last=True)) == 24_000 - 2_400


def test_int16_is_rounded_and_clamped() -> None:
    audio = np.array([0, 1, -1, 1.5, -7, 0.6 / 32767, -0.6 / 32767], np.float32)
    pcm = np.frombuffer(to_int16(audio), "<i2")
    assert pcm.tolist() == [0, 32767, -32767, 32767, -32767, 1, -1]
    assert to_int16(NOTHING) == b""


@pytest.mark.parametrize("crack", [math.nan, math.inf, -math.inf])
def test_nan_samples_fail_the_conversion(crack: float) -> None:
    with pytest.raises(EngineFailed):
        to_int16(np.array([0, crack, 0], np.float32))


def test_repeated_speech_that_fades_in_is_joined_without_a_hole_or_a_click() -> None:
    """As of recordings, whose pieces overlap by 80 ms; the first keeps its start."""
    token, time_s = 960, np.arange(24_000) / 24_000
    first, second = (np.sin(2 * np.pi * 200 * time_s + phase) for phase in (0, 1))
    second[: token // 2] = 0
    second[token // 2 : token] *= np.linspace(0, 1, token // 2)
    joiner = ChunkJoiner(params(lead=40, fade=40), 24_000, keeps_start=True)
    pieces = [joiner.push(audio.astype(np.float32), last=True) for audio in (first, second)]
    joined = np.concatenate([*pieces, joiner.finish()])
    assert len(joined) == len(first) + len(second) - 2 * token
    assert np.array_equal(joined[: len(first) - token], first[:-token].astype(np.float32))
    peaks = np.abs(joined[: len(joined) // 240 * 240]).reshape(-1, 240).max(axis=1)
    assert peaks.min() > 0.7
    assert np.abs(np.diff(joined)).max() < 2**0.5 * np.abs(np.diff(first)).max()
