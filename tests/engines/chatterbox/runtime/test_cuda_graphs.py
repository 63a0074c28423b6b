"""Static shapes, on a CPU without graph capture (`FewShapes`); marked `gpu`: CUDA graphs."""

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
from app.engines.chatterbox.frontend.english import EnglishFrontend
from app.engines.chatterbox.runtime.cuda_graphs import EAGER, GraphCaptureError, GraphCapturer
from app.engines.chatterbox.t3.batch import T3Batch
from app.engines.chatterbox.t3.request import T3Request
from app.engines.chatterbox.variants import ENGLISH
from app.pipeline.pipeline import Pipeline
from tests.support.few_shapes import FewShapes
from tests.support.speech import decibels
from tests.support.tiny_chatterbox import TinyChatterbox

TEXT = "The train to the city was late; we walked home."


def request_for(models, max_tokens=150, **params):
    text = EnglishFrontend(models.tokenizer).tokenize(TEXT)
    return T3Request(text, models.default_voice, SynthesisParams(**params), 3, max_tokens)


def new_batch(models, slots, capturer):
    return T3Batch(models.t3, ENGLISH.t3, slots, capturer=capturer)


def tokens_of(models, request, capturer, neighbours=0):
    batch = new_batch(models, 3, capturer)
    list(batch.warm_up())
    for seed in range(neighbours):
        batch.admit(T3Request(request.text_tokens[:, :9], request.voice, request.params, seed, 99))
        batch.step()
    slot = batch.admit(request)
    outputs = batch.step()[slot]
    while not outputs[-1].finish_reason:
        outputs += batch.step()[slot]
    return [output.token for output in outputs]


@pytest.mark.parametrize("neighbours", [0, 2])
def test_t3_with_static_shapes_gives_the_same_tokens(models, neighbours):
    # Nearly greedy, since noise is drawn in larger blocks.
    request = request_for(models, synthesis_temperature=1e-4)

    tokens = tokens_of(models, request, FewShapes(), neighbours)

    assert tokens == tokens_of(models, request, EAGER, neighbours)
    assert len(tokens) > 20


def test_sequence_joins_with_the_next_step_of_the_others(models):
    batch = new_batch(models, 3, FewShapes())
    first = batch.admit(request_for(models))
    assert len(batch.step()[first]) == 4
    second = batch.admit(request_for(models))
    assert {slot: len(outputs) for slot, outputs in batch.step().items()} == {first: 4, second: 4}


def test_tokens_decoded_after_the_end_are_not_returned(models):
    batch = new_batch(models, 1, FewShapes())
    slot = batch.admit(request_for(models, max_tokens=6))
    assert [len(batch.step()[slot]) for _ in range(2)] == [4, 2]
    assert batch.step() == {}


async def synthesize(engine: ChatterboxEngine, *texts: str) -> list[bytes]:
    """The PCM of each text, all at the same time."""

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
async def expected(tiny_checkpoint: Path, texts: list[str]) -> AsyncIterator[list[bytes]]:
    """The PCM of each text, without static shapes."""
    engine = TinyChatterbox(EngineConfig("cpu", 1, str(tiny_checkpoint), watermark=False))
    await engine.warm_up()
    yield [(await synthesize(engine, *texts[: index + 1]))[index] for index in range(len(texts))]
    await engine.close()


def samples(pcm: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(pcm), dtype=torch.int16).float() / 32768


@pytest.mark.heavy
@pytest.mark.asyncio(loop_scope="module")
async def test_engine_with_static_shapes_gives_the_same_audio(
    tiny_checkpoint: Path, texts: list[str], expected: list[bytes]
) -> None:
    config = EngineConfig("cpu", 1, str(tiny_checkpoint), slots=4, watermark=False)
    engine = FewShapesChatterbox(config)
    together = await synthesize(engine, *texts)
    await engine.close()
    for one, other in zip(together, expected, strict=True):
        assert len(one) == len(other)
        assert decibels(samples(one) - samples(other), samples(other)) < -40


class FailingCapturer(FewShapes):
    def wrap(self, function):
        wrapped = super().wrap(function)
        wrapped.capture = self.fail
        return wrapped

    def fail(self, *shape):
        raise GraphCaptureError(MemoryError("no room for it"))


class FailingCaptureChatterbox(TinyChatterbox):
    def _capturer(self, priority: int) -> FewShapes:
        return FailingCapturer()


@pytest.mark.heavy
@pytest.mark.asyncio(loop_scope="module")
async def test_engine_runs_without_graphs_if_capture_fails(
    tiny_checkpoint: Path, texts: list[str], expected: list[bytes]
) -> None:
    config = EngineConfig("cpu", 1, str(tiny_checkpoint), watermark=False)
    engine = FailingCaptureChatterbox(config)
    await engine.warm_up()
    assert engine.notice == "no CUDA graphs, speech takes longer: MemoryError: no room for it"
    assert await synthesize(engine, texts[0]) == [expected[0]]
    await engine.close()


async def test_raises_the_error_if_rebuilding_fails(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FailingCaptureChatterbox(EngineConfig("cpu", 1, str(tiny_checkpoint), watermark=False))

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
async def test_cuda_graphs_give_the_same_audio(
    tiny_checkpoint: Path,
    texts: list[str],
    compiled: bool,
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As eager execution on the same GPU. In bfloat16, where rounding depends on the batch, only
    check that there is audio.
    """
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.set_float32_matmul_precision("highest")
    tuning = msgspec.convert({"t3_dtype": dtype, "s3gen_dtype": dtype}, ChatterboxOptions)
    config = EngineConfig("cuda", 1, str(tiny_checkpoint), 4, False, compiled, tuning)
    graphed, eager = TinyChatterbox(config), EagerChatterbox(config)
    for engine in (graphed, eager):
        await engine.warm_up()
        assert engine.notice is None
    for _ in range(3):
        together, alone = await synthesize(graphed, *texts), await synthesize(eager, *texts)
        for one, other in zip(together, alone, strict=True):
            assert len(one) > 0
            if dtype == "float32":
                assert decibels(samples(one) - samples(other), samples(other)) < -40
    for engine in (graphed, eager):
        await engine.close()


class EagerChatterbox(TinyChatterbox):
    def _capturer(self, priority: int) -> GraphCapturer:
        return EAGER
