"""The engine of Chatterbox Multilingual on its tiny checkpoint, through the pipeline."""

import pytest
import pytest_asyncio

from app.core.engine_config import EngineConfig, QueueSizes
from app.core.errors import UnsupportedLanguage
from app.core.params import SynthesisParams
from app.engines.base import TextChunk
from app.pipeline.pipeline import Pipeline
from tests.support.tiny_chatterbox import TinyChatterbox


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(checkpoint_of):
    folder = checkpoint_of("multilingual")
    engine = TinyChatterbox(
        EngineConfig("cpu", 1, str(folder), watermark=False, variant="multilingual")
    )
    yield engine
    await engine.close()


async def speak(engine, text, language):
    pieces = []

    async def emit(pcm):
        pieces.append(pcm)

    pipeline = Pipeline(engine, QueueSizes(2, 3))
    params = SynthesisParams(seed=1, language=language)
    try:
        await pipeline.run(text, engine.default_voice, params, emit)
    finally:
        pipeline.close()
    return b"".join(pieces)


@pytest.mark.asyncio(loop_scope="module")
async def test_language_reaches_t3_and_the_last_token_is_cut(engine):
    async def tokens(language):
        params = SynthesisParams(seed=1, language=language)
        pieces = engine.speech_tokens(TextChunk("Ja, 5 €!", 0), engine.default_voice, params)
        return [token async for piece in pieces for token in piece.tokens]

    german = await tokens("de")
    assert german != await tokens("nl")
    assert len(await speak(engine, "Ja, 5 €!", "de-AT")) == 2 * 960 * (len(german) - 1)


@pytest.mark.asyncio(loop_scope="module")
async def test_language_without_its_helper_is_refused_and_others_are_spoken(engine):
    assert await speak(engine, "母は東京へ。", "ja")
    assert {code for code, reason in engine.languages.items() if reason} == {"zh"}
    with pytest.raises(UnsupportedLanguage, match="lacks spacy_ontonotes/features"):
        await speak(engine, "你好。", "zh-CN")
