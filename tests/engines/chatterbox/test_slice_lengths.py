from itertools import islice

import pytest

from app.core.engine_config import ChatterboxOptions
from app.engines.chatterbox.engine import slice_lengths


def lengths(chunk=0, unit=35, first_slice_tokens=20, slice_growth=2.0):
    options = ChatterboxOptions(first_slice_tokens=first_slice_tokens, slice_growth=slice_growth)
    return list(islice(slice_lengths(unit, options, chunk), 4))


def test_first_slice_is_short_and_later_ones_double():
    assert lengths() == [20, 70, 140, 280]


def test_only_the_first_text_chunk_begins_with_a_short_slice():
    assert lengths(chunk=1) == lengths(chunk=7) == [70, 140, 280, 560]


@pytest.mark.parametrize("chunk", [0, 1])
def test_without_growth_and_first_slice_all_have_the_same_length(chunk):
    assert lengths(chunk, first_slice_tokens=0, slice_growth=1) == [35] * 4
    assert list(islice(slice_lengths(35, ChatterboxOptions(), chunk), 4)) == [35] * 4


def test_fractional_growth_accumulates():
    assert lengths(unit=5, first_slice_tokens=0, slice_growth=1.5) == [5, 7, 11, 16]


def test_first_slice_is_no_longer_than_the_unit():
    assert lengths(unit=5) == [5, 10, 20, 40]
