from itertools import islice

import pytest

from app.core.engine_config import ChatterboxOptions
from app.engines.chatterbox.s3gen.slice_schedule import slice_lengths


def lengths(chunk=0, unit=35, first_slice_tokens=20, slice_growth=2.0):
    tuning = ChatterboxOptions(first_slice_tokens=first_slice_tokens, slice_growth=slice_growth)
    return list(islice(slice_lengths(unit, tuning, chunk), 4))


def test_the_first_slice_is_small_and_each_after_it_twice_the_one_before():
    assert lengths() == [20, 70, 140, 280]


def test_only_the_first_text_chunk_begins_small():
    assert lengths(chunk=1) == lengths(chunk=7) == [70, 140, 280, 560]


@pytest.mark.parametrize("chunk", [0, 1])
def test_without_growth_and_first_slice_all_are_of_one_length(chunk):
    assert lengths(chunk, first_slice_tokens=0, slice_growth=1) == [35] * 4
    assert list(islice(slice_lengths(35, ChatterboxOptions(), chunk), 4)) == [35] * 4


def test_a_fraction_of_growth_is_not_lost():
    assert lengths(unit=5, first_slice_tokens=0, slice_growth=1.5) == [5, 7, 11, 16]


def test_the_first_slice_is_never_longer_than_was_asked_for():
    assert lengths(unit=5) == [5, 10, 20, 40]
