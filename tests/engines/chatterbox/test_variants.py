"""The whole engine with each variant's tiny checkpoint, beside the package's own `generate`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import pytest_asyncio
import torch
from chatterbox.tts_turbo import Conditionals

from app.bench.randomness import pinned_randomness
from app.core.audio import SAMPLE_RATE, Samples
from app.core.engine_config import EngineConfig
from app.core.params import SynthesisParams
from app.engines.base import SpeechSlice, TextChunk
from app.engines.chatterbox import engine as engine_module
from app.engines.chatterbox.engine import ChatterboxEngine
from app.engines.chatterbox.s3gen.noise import Noise
from app.engines.chatterbox.variants import TURBO, VARIANTS
from tests.engines.chatterbox.test_engine import speak
from tests.support.speech import CPU, decibels
from tests.support.tiny_chatterbox import TinyChatterbox
from tests.support.watermark import assert_detected, score, through_mp3

TEXT = "Hello you. [laugh]"
SAMPLES_PER_TOKEN = 960


def params_of(variant: str) -> SynthesisParams:
    return msgspec.structs.replace(SynthesisParams(seed=1), **VARIANTS[variant].defaults)


def new_engine(checkpoint: Path, variant: str, watermark: bool) -> ChatterboxEngine:
    config = EngineConfig("cpu", 1, str(checkpoint), watermark=watermark, variant=variant)
    return TinyChatterbox(config)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def turbo(checkpoint_of: Callable[[str], Path]) -> AsyncIterator[ChatterboxEngine]:
    engine = new_engine(checkpoint_of("turbo"), "turbo", watermark=True)
    yield engine
    await engine.close()


@pytest.fixture(scope="module")
def generated(
    upstream_of: Callable[[str], Any], checkpoint_of: Callable[[str], Path]
) -> tuple[Samples, Samples]:
    """What the package generates for the text without a watermark, and for another text."""
    upstream = upstream_of("turbo")
    upstream.conds = Conditionals.load(checkpoint_of("turbo") / "conds.pt")  # other tests change it
    upstream.watermarker.apply_watermark = lambda audio, sample_rate: audio
    [mixed] = np.random.SeedSequence((1, 0)).generate_state(1)
    audios = []
    for text in (TEXT, TEXT.replace("you", "me")):
        torch.manual_seed(int(mixed))
        with (
            pinned_randomness(Noise(1, 0, CPU)),
            redirect_stdout(StringIO()),  # it prints
            redirect_stderr(StringIO()),
        ):
            audios.append(upstream.generate(text)[0].numpy())
    return audios[0], audios[1]


async def decoded(engine: ChatterboxEngine) -> Samples:
    """The engine's audio of the text, all tokens in one slice."""
    params = params_of("turbo")
    chunk = TextChunk(TEXT, 0)
    slices = engine.speech_tokens(chunk, engine.default_voice, params)
    tokens = [token async for piece in slices for token in piece.tokens]
    decoder = engine.new_decoder(engine.default_voice, params)
    return await decoder.decode(SpeechSlice(tokens, last=True))


@pytest.mark.asyncio(loop_scope="module")
async def test_audio_of_turbo_equals_what_the_package_generates(turbo, generated):
    expected, other = generated
    audio = await decoded(turbo)
    assert len(audio) == len(expected)
    assert len(audio) % SAMPLES_PER_TOKEN == 0
    length = min(len(expected), len(other))
    scale = torch.from_numpy(expected[:length] - other[:length])
    assert decibels(torch.from_numpy(audio - expected), scale) < -60


@pytest.mark.asyncio(loop_scope="module")
async def test_comparison_detects_a_dropped_silence_tail(turbo, generated, monkeypatch):
    spec = turbo._spec
    without = replace(spec, t3=replace(spec.t3, silence_tail=()))
    monkeypatch.setattr(turbo, "_spec", without)
    audio = await decoded(turbo)
    assert len(generated[0]) - len(audio) == 3 * SAMPLES_PER_TOKEN


@pytest.mark.asyncio(loop_scope="module")
async def test_speech_that_is_cut_off_has_the_silence_tail(turbo, monkeypatch):
    monkeypatch.setattr(engine_module, "max_tokens", lambda *_: 5)
    params = msgspec.structs.replace(params_of("turbo"), audio_tokens_per_slice=3)
    slices = turbo.speech_tokens(TextChunk(TEXT, 1), turbo.default_voice, params)
    first, second = [piece.tokens async for piece in slices]
    assert (len(first), len(second)) == (3, 2 + 3)
    assert second[2:] == list(TURBO.t3.silence_tail)


@pytest.mark.asyncio(loop_scope="module")
async def test_stream_of_turbo_is_repeatable_and_watermarked(turbo):
    one, other = await asyncio.gather(*(speak(turbo, TEXT, top_p=0.95) for _ in range(2)))
    assert one == other
    assert_detected(samples(one))


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.heavy
@pytest.mark.parametrize("variant", VARIANTS)
async def test_stream_of_each_variant_is_watermarked_also_as_mp3(checkpoint_of, variant):
    """Of several text chunks, and so across their seams."""
    text, two_chunks = "Hello to you. Hello to me.", {"text_processing_chunk_size": 20}
    scores = {}
    for marked in (True, False):
        engine = new_engine(checkpoint_of(variant), variant, watermark=marked)
        pcm = await speak(engine, text, **two_chunks)
        await engine.close()
        assert len(pcm) > 2 * 3.5 * SAMPLE_RATE
        if marked:
            assert_detected(samples(pcm))
            assert_detected(through_mp3(samples(pcm)))
        scores[marked] = score(samples(pcm))
    assert scores[False] < 0.5 < scores[True]


def samples(pcm: bytes) -> Samples:
    return np.frombuffer(pcm, np.int16) / np.float32(32768)
