"""The whole engine on the tiny checkpoint, through the pipeline and through the service."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import pytest_asyncio
import torch
from perth import PerthImplicitWatermarker

from app.core.audio import SAMPLE_RATE
from app.core.engine_config import ChatterboxOptions, EngineConfig, QueueSizes
from app.core.errors import DeviceFailed, OutOfMemory
from app.core.params import SynthesisParams
from app.engines.base import TextChunk
from app.engines.chatterbox.engine import ChatterboxEngine
from app.engines.chatterbox.s3gen.flow import Flow
from app.engines.chatterbox.s3gen.vocoder import Vocoder
from app.engines.chatterbox.t3.batch import T3Batch
from app.pipeline.pipeline import Pipeline
from tests.support.service import ROOT, Service
from tests.support.tiny_chatterbox import TinyChatterbox

TEXT = "Hello there, this is a test. It has two sentences."
SAMPLES_PER_TOKEN = 960
PARAMS = SynthesisParams(audio_tokens_per_slice=20)

CPU_OPTIONS = ChatterboxOptions(first_slice_tokens=20, slice_growth=2.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tiny_checkpoint: Path) -> AsyncIterator[ChatterboxEngine]:
    config = EngineConfig(
        "cpu", 1, str(tiny_checkpoint), slots=3, watermark=False, tuning=CPU_OPTIONS
    )
    engine = TinyChatterbox(config)
    await engine.warm_up()
    yield engine
    await engine.close()


async def speak(
    engine: ChatterboxEngine,
    text: str = TEXT,
    begun: asyncio.Event | None = None,
    **changes: Any,
) -> bytes:
    """All PCM of `text`; `begun` is set with its first piece."""
    pieces: list[bytes] = []

    async def emit(pcm: bytes) -> None:
        pieces.append(pcm)
        if begun:
            begun.set()

    pipeline = Pipeline(engine, QueueSizes(2, 3))
    params = msgspec.structs.replace(PARAMS, **changes)
    await pipeline.run(text, engine.default_voice, params, emit)
    pipeline.close()
    return b"".join(pieces)


@pytest.mark.asyncio(loop_scope="module")
async def test_audio_of_a_seed_is_independent_of_other_jobs(
    engine: ChatterboxEngine,
) -> None:
    alone = await speak(engine, seed=1)
    beside = await asyncio.gather(*(speak(engine, seed=seed) for seed in (1, 2, 3)))
    assert beside[0] == alone
    assert len(set(beside)) == 3


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("method", ["full", "zero"])
async def test_audio_has_960_samples_per_token(engine: ChatterboxEngine, method: str) -> None:
    params = msgspec.structs.replace(PARAMS, chunk_overlap_method=method, seed=1)
    chunk = TextChunk(TEXT, 0)
    slices = engine.speech_tokens(chunk, engine.default_voice, params)
    tokens = sum([len(piece.tokens) async for piece in slices])
    pcm = await speak(engine, chunk_overlap_method=method, seed=1)
    assert tokens > 0
    assert len(pcm) == 2 * SAMPLES_PER_TOKEN * tokens


@pytest.mark.asyncio(loop_scope="module")
async def test_slice_lengths_follow_the_schedule(engine: ChatterboxEngine) -> None:
    params = msgspec.structs.replace(PARAMS, seed=1)
    for index, expected in ((0, [20, 40]), (1, [40])):
        slices = engine.speech_tokens(TextChunk(TEXT, index), engine.default_voice, params)
        sizes = [len(piece.tokens) async for piece in slices]
        assert sizes[: len(expected)] == expected


@pytest.mark.asyncio(loop_scope="module")
async def test_cancelled_job_frees_its_slot(engine: ChatterboxEngine) -> None:
    before = await speak(engine, seed=1)
    begun = asyncio.Event()
    long = asyncio.create_task(speak(engine, "This is a long text to be cut off. " * 20, begun))
    await begun.wait()
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    assert engine._t3_scheduler._batch.free == 3
    assert await speak(engine, seed=1) == before


def no_memory(*args: Any, **kwargs: Any) -> None:
    torch.empty(1 << 60)


def device_assert(*args: Any, **kwargs: Any) -> None:
    raise RuntimeError("CUDA error: device-side assert triggered")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("place", ["T3Batch.admit", "T3Batch.step", "Flow.solve", "Vocoder.filter"])
@pytest.mark.parametrize(
    ("fail", "expected"), [(no_memory, OutOfMemory), (device_assert, DeviceFailed)]
)
async def test_device_error_is_translated_and_frees_the_slot(
    engine: ChatterboxEngine,
    place: str,
    fail: Callable[..., None],
    expected: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = await speak(engine, seed=1)
    name, method = place.split(".")
    with monkeypatch.context() as patch:
        patch.setattr({"T3Batch": T3Batch, "Flow": Flow, "Vocoder": Vocoder}[name], method, fail)
        with pytest.raises(expected):
            await speak(engine, seed=1)
    await engine.free_memory()
    assert engine._t3_scheduler._batch.free == 3
    assert await speak(engine, seed=1) == before


@pytest.mark.asyncio(loop_scope="module")
async def test_audio_depends_on_exaggeration_and_guidance(engine: ChatterboxEngine) -> None:
    audio = await asyncio.gather(
        speak(engine, seed=1),
        speak(engine, seed=1, voice_exaggeration_factor=2.0),
        speak(engine, seed=1, cfg_guidance_weight=0.0),
    )
    assert len(set(audio)) == 3


async def test_speech_is_watermarked_if_configured(tiny_checkpoint: Path) -> None:
    detector = PerthImplicitWatermarker()
    for watermark in (True, False):
        config = EngineConfig("cpu", 1, str(tiny_checkpoint), watermark=watermark)
        engine = TinyChatterbox(config)
        audio = np.frombuffer(await speak(engine, seed=1), np.int16) / np.float32(32768)
        await engine.close()
        assert (detector.get_watermark(audio, SAMPLE_RATE, round=False) > 0.9) == watermark


async def test_shorter_voice_prompt_changes_sound_but_not_length(
    tiny_checkpoint: Path,
) -> None:
    audio = []
    for seconds in (10, 1):
        options = ChatterboxOptions(voice_prompt_seconds=seconds)
        config = EngineConfig("cpu", 1, str(tiny_checkpoint), watermark=False, tuning=options)
        engine = TinyChatterbox(config)
        audio.append(await speak(engine, seed=1))
        await engine.close()
    assert len(audio[0]) == len(audio[1])
    assert audio[0] != audio[1]


def test_every_worker_uses_an_uploaded_voice_even_while_it_is_deleted(
    start: Callable[..., Service], tiny_checkpoint: Path
) -> None:
    service = start(
        MODEL="tests.support.tiny_chatterbox:TinyChatterbox",
        MODEL_PATH=tiny_checkpoint,
        WORKERS_PER_DEVICE=2,
    )
    recording = (ROOT / "preloaded-voices" / "austen.wav").read_bytes()
    body = {"text": TEXT, "seed": 1, "format": "raw_pcm"}
    cloned = {**body, "voice_id": "uploaded.wav"}

    def prepared() -> int:
        return service.log().count(" prepared after ")

    before = prepared()
    with service.client() as client, ThreadPoolExecutor(2) as clients:
        own = client.post("/tts/generate", json=body).raise_for_status()
        assert own.headers["X-TTS-Model"] == "chatterbox"
        uploaded = client.post("/voices", files={"file": ("uploaded.wav", recording)})
        assert uploaded.status_code == 201
        assert client.get("/voices").json() == ["uploaded.wav"]
        service.wait_until(lambda: prepared() == before + 2)
        one, other = clients.map(lambda _: client.post("/tts/generate", json=cloned), range(2))
        assert "X-TTS-Notice" not in one.headers
        assert one.raise_for_status().content == other.raise_for_status().content != own.content

        with client.stream("POST", "/tts/generate", json=cloned) as running:
            pieces = running.iter_bytes()
            begun = next(pieces)
            assert client.delete("/voices/uploaded.wav").status_code == 200
            assert service.busy() == 1
            assert begun + b"".join(pieces) == one.content
        assert client.post("/tts/generate", json=cloned).status_code == 404
