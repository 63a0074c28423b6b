"""Multilingual's text chunks end one speech token early, as upstream cuts its waveform."""

from dataclasses import replace

import numpy as np
import pytest
import pytest_asyncio

from app.core.engine_config import EngineConfig
from app.core.params import SynthesisParams
from app.engines.base import SpeechSlice, TextChunk
from app.engines.chatterbox.variants import ENGLISH, MULTILINGUAL
from tests.support.tiny_chatterbox import TinyChatterbox

PARAMS = SynthesisParams(seed=1, audio_tokens_per_slice=10)
TRIMMED = replace(ENGLISH, t3=replace(ENGLISH.t3, end_trim_tokens=1))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tiny_checkpoint):
    engine = TinyChatterbox(EngineConfig("cpu", 1, str(tiny_checkpoint), watermark=False))
    yield engine
    await engine.close()


async def decoded(engine, slices, overlap="full"):
    params = SynthesisParams(seed=1, chunk_overlap_method=overlap)
    decoder = engine.new_decoder(engine.default_voice, params)
    return np.concatenate([await decoder.decode(piece) for piece in slices])


def slices_of(*lengths, trim=0):
    """Of one text chunk; each token is another."""
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    return [
        SpeechSlice(list(range(end - length, end)), end == ends[-1], trim * (end == ends[-1]))
        for length, end in zip(lengths, ends, strict=True)
    ]


def test_one_token_is_cut_in_multilingual_alone():
    assert (MULTILINGUAL.t3.end_trim_tokens, ENGLISH.t3.end_trim_tokens) == (1, 0)


@pytest.mark.asyncio(loop_scope="module")
async def test_end_of_each_text_chunk_is_cut(engine):
    whole = await decoded(engine, slices_of(18, 2) + slices_of(3))
    cut = await decoded(engine, slices_of(18, 2, trim=1) + slices_of(3, trim=1))
    assert len(whole) == 23 * 960
    assert np.array_equal(cut, np.concatenate([whole[: 19 * 960], whole[20 * 960 : 22 * 960]]))
    assert len(await decoded(engine, slices_of(3, 1, trim=1), "zero")) == 3 * 960


@pytest.mark.asyncio(loop_scope="module")
async def test_single_token_is_kept(engine):
    assert len(await decoded(engine, slices_of(1, trim=1))) == 960
    assert len(await decoded(engine, slices_of(2, trim=1))) == 960


@pytest.mark.asyncio(loop_scope="module")
async def test_last_slice_is_never_empty(engine, monkeypatch):
    """Or there would be nothing left to cut."""

    async def lengths(unit):
        params = SynthesisParams(seed=1, audio_tokens_per_slice=unit)
        pieces = engine.speech_tokens(TextChunk("Hello.", 0), engine.default_voice, params)
        return [len(piece.tokens) async for piece in pieces]

    number = sum(await lengths(500))
    assert await lengths(number) == [number, 0]
    monkeypatch.setattr(engine, "_spec", TRIMMED)
    assert await lengths(number) == [number]
    assert await lengths(number - 1) == [number - 1, 1]
