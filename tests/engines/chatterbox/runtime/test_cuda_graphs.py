"""What is done for a GPU's recordings, on a CPU, which makes none: see `FewShapes`.

Marked `gpu`: the recordings themselves.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
import torch

from app.core.engine_config import ChatterboxOptions, EngineConfig, QueueSizes
from app.core.params import SynthesisParams
from app.engines.chatterbox import engine as engine_module
from app.engines.chatterbox.engine import ChatterboxEngine
from app.engines.chatterbox.runtime.cuda_graphs import EAGER, EagerRunner, GraphCaptureError
from app.engines.chatterbox.t3.batch import T3Batch, T3Request, tokenize
from app.pipeline.pipeline import Pipeline
from tests.support.few_shapes import FewShapes
from tests.support.speech import decibels
from tests.support.tiny_chatterbox import TinyChatterbox

TEXT = "The train to the city was late; we walked home."


def said(models, request, capturer, beside=0):
    batch = T3Batch(models.t3, slots=3, capturer=capturer)
    list(batch.warm_up())
    for number in range(beside):
        other = T3Request(request.text_tokens[:, :9], request.voice, request.params, number, 99)
        batch.admit(other)
        batch.step()
    slot = batch.admit(request)
    steps = batch.step()[slot]
    while not steps[-1].ending:
        steps += batch.step()[slot]
    return [step.token for step in steps]


@pytest.mark.parametrize("beside", [0, 2])
def test_t3_in_few_shapes_says_the_same(models, beside):
    tokens = tokenize(models.tokenizer, TEXT)
    cold = SynthesisParams(synthesis_temperature=1e-4)  # since noise is drawn in larger pieces
    request = T3Request(tokens, models.default_voice, cold, 3, 150)

    few = said(models, request, FewShapes(), beside)

    assert few == said(models, request, EAGER, beside)
    assert len(few) > 20


def test_who_joins_is_told_his_first_tokens_with_the_very_next_of_the_others(models):
    request = T3Request(
        tokenize(models.tokenizer, TEXT), models.default_voice, SynthesisParams(), 3, 150
    )
    batch = T3Batch(models.t3, slots=3, capturer=FewShapes())
    first = batch.admit(request)
    assert len(batch.step()[first]) == 4
    second = batch.admit(request)
    assert {slot: len(steps) for slot, steps in batch.step().items()} == {first: 4, second: 4}


def test_what_was_computed_after_the_end_is_not_told(models):
    request = T3Request(
        tokenize(models.tokenizer, TEXT), models.default_voice, SynthesisParams(), 3, 6
    )
    batch = T3Batch(models.t3, slots=1, capturer=FewShapes())
    slot = batch.admit(request)
    assert [len(batch.step()[slot]) for _ in range(2)] == [4, 2]
    assert batch.step() == {}


async def spoken(engine: ChatterboxEngine, *texts: str) -> list[bytes]:
    """What is said at the same time."""

    async def one(seed: int, text: str) -> bytes:
        pieces: list[bytes] = []

        async def emit(pcm: bytes) -> None:
            pieces.append(pcm)

        cold = SynthesisParams(synthesis_temperature=1e-4, seed=seed)
        await pipeline.run(text, engine.default_voice, cold, emit)
        return b"".join(pieces)

    pipeline = Pipeline(engine, QueueSizes(2, 3))
    try:
        return await asyncio.gather(*(one(seed, text) for seed, text in enumerate(texts)))
    finally:
        pipeline.close()


class FewShapesChatterbox(TinyChatterbox):
    def _capturer(self, priority: int) -> FewShapes:
        return FewShapes()


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return ["Hello. Me.", TEXT, "No.", "Yes, that is so."]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def right(tiny_checkpoint: Path, texts: list[str]) -> AsyncIterator[list[bytes]]:
    """Each said alone, as a CPU says it."""
    engine = TinyChatterbox(EngineConfig("cpu", 1, str(tiny_checkpoint), watermark=False))
    await engine.warm_up()
    yield [(await spoken(engine, *texts[: index + 1]))[index] for index in range(len(texts))]
    await engine.close()


def samples(pcm: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(pcm), dtype=torch.int16).float() / 32768


@pytest.mark.asyncio(loop_scope="module")
async def test_all_of_it_together_in_few_shapes_says_the_same(
    tiny_checkpoint: Path, texts: list[str], right: list[bytes]
) -> None:
    config = EngineConfig("cpu", 1, str(tiny_checkpoint), slots=4, watermark=False)
    engine = FewShapesChatterbox(config)
    heard = await spoken(engine, *texts)
    await engine.close()
    for few, alone in zip(heard, right, strict=True):
        assert len(few) == len(alone)
        assert decibels(samples(few) - samples(alone), samples(alone)) < -40


class Forgetful(FewShapes):
    """Cannot record."""

    def wrap(self, function):
        steps = super().wrap(function)
        steps.capture = self.fail
        return steps

    def fail(self, *shape):
        raise GraphCaptureError(MemoryError("no room for it"))


class ForgetfulChatterbox(TinyChatterbox):
    def _capturer(self, priority: int) -> FewShapes:
        return Forgetful()


@pytest.mark.asyncio(loop_scope="module")
async def test_what_cannot_be_recorded_speaks_all_the_same(
    tiny_checkpoint: Path, texts: list[str], right: list[bytes]
) -> None:
    config = EngineConfig("cpu", 1, str(tiny_checkpoint), watermark=False)
    engine = ForgetfulChatterbox(config)
    await engine.warm_up()
    assert engine.notice == "no CUDA graphs, speech takes longer: MemoryError: no room for it"
    assert await spoken(engine, texts[0]) == [right[0]]
    await engine.close()


async def test_what_cannot_be_put_together_again_tells_why(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ForgetfulChatterbox(EngineConfig("cpu", 1, str(tiny_checkpoint), watermark=False))

    def fail(*args: object, **named: object) -> None:
        raise MemoryError("no room for a batch")

    monkeypatch.setattr(engine_module, "T3Batch", fail)
    try:
        with pytest.raises(MemoryError, match="no room for a batch"):
            await engine.warm_up()
    finally:
        await engine.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_recorded_it_says_the_same(
    tiny_checkpoint: Path,
    texts: list[str],
    compiled: bool,
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the same GPU says it step by step; in bfloat16, whose rounding depends on the company, no
    more can be asked than that everyone is heard.
    """
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.set_float32_matmul_precision("highest")
    tuning = msgspec.convert({"t3_dtype": dtype, "s3gen_dtype": dtype}, ChatterboxOptions)
    config = EngineConfig("cuda", 1, str(tiny_checkpoint), 4, False, compiled, tuning)
    recorded, plain = TinyChatterbox(config), Unrecorded(config)
    for engine in (recorded, plain):
        await engine.warm_up()
        assert engine.notice is None
    for _ in range(3):
        together, alone = await spoken(recorded, *texts), await spoken(plain, *texts)
        for one, other in zip(together, alone, strict=True):
            assert len(one) > 0
            if dtype == "float32":
                assert decibels(samples(one) - samples(other), samples(other)) < -40
    for engine in (recorded, plain):
        await engine.close()


class Unrecorded(TinyChatterbox):
    def _capturer(self, priority: int) -> EagerRunner:
        return EAGER
