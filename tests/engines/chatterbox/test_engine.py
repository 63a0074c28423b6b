"""The whole engine on the tiny checkpoint, through the pipeline and through the service."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
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
from app.core.resume_point import BEGINNING
from app.engines.base import TextChunk
from app.engines.chatterbox.engine import ChatterboxEngine
from app.engines.chatterbox.s3gen.flow import Flow
from app.engines.chatterbox.s3gen.vocoder import Vocoder
from app.engines.chatterbox.t3.batch import T3Batch
from app.pipeline.pipeline import Pipeline
from tests.support.service import ROOT
from tests.support.tiny_chatterbox import TinyChatterbox

TEXT = "Hello. Me."
SAMPLES_PER_TOKEN = 960
PARAMS = SynthesisParams(seed=1, audio_tokens_per_slice=10)

CPU_OPTIONS = ChatterboxOptions(first_slice_tokens=10, slice_growth=2.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tiny_checkpoint):
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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alone(engine):
    """The PCM of the text, while nothing else runs."""
    return await speak(engine)


@pytest.mark.asyncio(loop_scope="module")
async def test_audio_depends_on_the_parameters_and_not_on_other_jobs(engine, alone):
    changes = {}, {"seed": 2}, {"voice_exaggeration_factor": 2.0}, {"cfg_guidance_weight": 0.0}
    together = await asyncio.gather(*(speak(engine, **change) for change in changes))
    assert together[0] == alone
    assert len(set(together)) == len(changes)


@pytest.mark.asyncio(loop_scope="module")
async def test_slices_follow_the_schedule_and_give_960_samples_per_token(engine, alone):
    for index, expected in ((0, [10, 20]), (1, [20])):
        slices = engine.speech_tokens(TextChunk(TEXT, index), engine.default_voice, PARAMS)
        sizes = [len(piece.tokens) async for piece in slices]
        assert sizes[: len(expected)] == expected
        if index == 0:
            assert len(alone) == 2 * SAMPLES_PER_TOKEN * sum(sizes)
    assert len(await speak(engine, chunk_overlap_method="zero")) == len(alone)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.heavy
@pytest.mark.parametrize("overlap", ["full", "zero"])
async def test_audio_is_the_same_if_the_job_stops_after_each_text_chunk(engine, overlap):
    text = "Hello to you. Hello to me. Hello to all."
    params = msgspec.structs.replace(
        PARAMS, text_processing_chunk_size=20, chunk_overlap_method=overlap
    )
    pieces: list[bytes] = []

    async def emit(pcm: bytes) -> None:
        pieces.append(pcm)

    pipeline, voice = Pipeline(engine, QueueSizes(2, 3)), engine.default_voice
    await pipeline.run(text, voice, params, emit)
    whole, point, points = b"".join(pieces), BEGINNING, 0
    pieces.clear()
    while point := await pipeline.run(
        text, voice, params, emit, resume_point=point, should_stop=lambda: True
    ):
        points += 1
    pipeline.close()
    assert points == 2
    assert b"".join(pieces) == whole
    assert engine._t3_scheduler._batch.free == 3


@pytest.mark.asyncio(loop_scope="module")
async def test_cancelled_job_frees_its_slot(engine, alone):
    begun = asyncio.Event()
    long = asyncio.create_task(speak(engine, "This is a long text to be cut off. " * 20, begun))
    await begun.wait()
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    assert engine._t3_scheduler._batch.free == 3
    assert await speak(engine) == alone


def no_memory(*args, **kwargs):
    torch.empty(1 << 60)


def device_assert(*args, **kwargs):
    raise RuntimeError("CUDA error: device-side assert triggered")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("part", "method", "fail", "expected"),
    [
        (T3Batch, "admit", no_memory, OutOfMemory),
        (T3Batch, "step", device_assert, DeviceFailed),
        (T3Batch, "step", no_memory, OutOfMemory),
        (Flow, "solve", no_memory, OutOfMemory),
        (Vocoder, "filter", device_assert, DeviceFailed),
    ],
)
async def test_device_error_is_translated_and_frees_the_slot(
    engine, alone, part, method, fail, expected, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(part, method, fail)
        with pytest.raises(expected):
            await speak(engine)
    await engine.free_memory()
    assert engine._t3_scheduler._batch.free == 3
    assert await speak(engine) == alone


@pytest.mark.asyncio(loop_scope="module")
async def test_speech_is_watermarked_if_configured(tiny_checkpoint, alone):
    config = EngineConfig("cpu", 1, str(tiny_checkpoint), watermark=True)
    engine, detector = TinyChatterbox(config), PerthImplicitWatermarker()
    marked = await speak(engine)
    await engine.close()
    for pcm, expected in ((marked, True), (alone, False)):
        audio = np.frombuffer(pcm, np.int16) / np.float32(32768)
        assert (detector.get_watermark(audio, SAMPLE_RATE, round=False) > 0.9) == expected


@pytest.mark.asyncio(loop_scope="module")
async def test_shorter_voice_prompt_changes_sound_but_not_length(tiny_checkpoint, alone):
    tuning = msgspec.structs.replace(CPU_OPTIONS, voice_prompt_seconds=1)
    config = EngineConfig("cpu", 1, str(tiny_checkpoint), watermark=False, tuning=tuning)
    engine = TinyChatterbox(config)
    audio = await speak(engine)
    await engine.close()
    assert len(audio) == len(alone)
    assert audio != alone


@pytest.mark.heavy
def test_every_worker_uses_an_uploaded_voice_even_while_it_is_deleted(start, tiny_checkpoint):
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
