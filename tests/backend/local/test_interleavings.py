"""Jobs that are preempted and resumed at random, on real pipelines in this process."""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.backend.base import JobRequest
from app.backend.local.dispatcher import Dispatcher, Limits
from app.backend.local.job import Worker
from app.backend.local.voice_tracker import VoiceTracker
from app.core.audio import Samples
from app.core.engine_config import EngineConfig, QueueSizes
from app.core.params import SynthesisParams
from app.engines.base import SpeechSlice, TextChunk
from app.engines.chatterbox.watermark import StreamingWatermark
from app.ipc.messages import Credit, JobPreempted, JobResult, Preempt, Report, Result, Synthesize
from app.observability.metrics import Metrics
from app.pipeline.pipeline import Emit, Pipeline
from app.worker.job_runner import JobRunner
from app.worker.voice_cache import VoiceCache
from tests.support.engines import ScriptedEngine
from tests.support.signal_engine import SignalDecoder
from tests.support.waiting import PATIENCE_S

INTERLEAVINGS = 200
SAMPLES_PER_LETTER = 480
WORDS = ("one", "three", "seven.", "Eleven,", "thirteen;", "seventeen:", "Twenty?")


class NoiseEngine(ScriptedEngine):
    """Noise that depends on seed, text chunk and its index, with a mark that depends on windows."""

    async def speech_tokens(
        self, chunk: TextChunk, voice: int, params: SynthesisParams
    ) -> AsyncGenerator[SpeechSlice, None]:
        audio = noise(chunk, params.seed)
        step = params.audio_tokens_per_slice * SAMPLES_PER_LETTER
        starts = range(0, len(audio), step)
        for start in starts:
            await asyncio.sleep(0)
            yield SpeechSlice(audio[start : start + step], last=start == starts[-1])

    def new_decoder(self, voice: int, params: SynthesisParams, first_chunk: int = 0) -> Any:
        return SignalDecoder()

    def new_watermark(self, state: bytes = b"") -> Any:
        return StreamingWatermark(mark, state)


@cache
def noise(chunk: TextChunk, seed: int) -> NDArray[np.int16]:
    generator = np.random.default_rng((seed, chunk.index, *chunk.text.encode()))
    return generator.integers(-3000, 3000, len(chunk.text) * SAMPLES_PER_LETTER, np.int16)


def mark(audio: Samples) -> Samples:
    marked: Samples = audio * (1 + audio.mean())
    return marked


class InlinePipeline(Pipeline):
    """Converts PCM at once, since changing threads would take most of the test's time."""

    async def _emit(self, convert: Callable[[], bytes], emit: Emit) -> None:
        await asyncio.sleep(0)
        if pcm := convert():
            await emit(pcm)


class LocalWorker(Worker):
    """A worker whose messages are encoded and arrive a little later, like those of a process."""

    def __init__(self, dispatcher: Dispatcher, folder: Path, slots: int) -> None:
        super().__init__("local", slots, self._take)
        self.preempted = 0
        self._dispatcher = dispatcher
        engine = NoiseEngine(EngineConfig("cpu", 1, ""))
        self.pipeline = InlinePipeline(engine, QueueSizes(2, 1))
        voices = VoiceCache(engine, folder, self._report)
        self.runner = JobRunner(engine, self.pipeline, voices, self._send, self._report)

    def _take(self, message: Synthesize | Credit | Preempt) -> bool:
        received = msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=type(message))
        deliver = {
            Synthesize: self.runner.start,
            Credit: self.runner.grant,
            Preempt: self.runner.preempt,
        }[type(message)]
        asyncio.get_running_loop().call_soon(deliver, received)
        return True

    def _report(self, report: Report) -> None:
        self._dispatcher.job_started(self, report.job)  # type: ignore[union-attr]

    async def _send(self, message: Result, pcm: bytes | None = None) -> None:
        received: JobResult = msgspec.msgpack.decode(
            msgspec.msgpack.encode(message),
            type=type(message),  # type: ignore[arg-type]
        )
        self.preempted += isinstance(received, JobPreempted)
        loop = asyncio.get_running_loop()
        loop.call_soon(self._dispatcher.handle, self, received, pcm or b"")
        await asyncio.sleep(0)


async def alone(job: JobRequest) -> bytes:
    pcm = bytearray()

    async def emit(piece: bytes) -> None:
        pcm.extend(piece)

    pipeline = InlinePipeline(NoiseEngine(EngineConfig("cpu", 1, "")), QueueSizes(2, 3))
    await pipeline.run(job.text, 0, job.params, emit)
    pipeline.close()
    return bytes(pcm)


def random_job(number: int) -> JobRequest:
    dice = random.Random(number)
    params = SynthesisParams(
        seed=dice.getrandbits(32),
        text_processing_chunk_size=20,
        audio_tokens_per_slice=dice.choice((10, 20)),
        chunk_overlap_method=dice.choice(("full", "zero")),
        crossfade_duration_milliseconds=dice.choice((0, 10, 30)),
        remove_leading_milliseconds=dice.choice((0, 5)),
        remove_trailing_milliseconds=dice.choice((0, 5)),
    )
    text = " ".join(dice.choices(WORDS, k=dice.randrange(8, 20)))
    return JobRequest(str(number), text, None, params)


JOBS = [random_job(number) for number in range(12)]


async def listen(dispatcher: Dispatcher, job: JobRequest, dice: random.Random) -> bytes:
    """A client that comes at some time and reads at some speed."""
    await asyncio.sleep(dice.choice((0, 0.001)))
    stream = dispatcher.submit(job)
    pause_s = dice.choice((0, 0, 0.0005))
    pcm = bytearray()
    while piece := await stream.read():
        stream.commit()
        pcm += piece
        await asyncio.sleep(pause_s)
    stream.close()
    return bytes(pcm)


async def interleaved(seed: int, folder: Path, expected: dict[str, bytes]) -> int:
    """Run some jobs side by side; return how often one was preempted."""
    dice = random.Random(seed)
    chosen = dice.sample(JOBS, dice.randrange(3, 6))
    limits = Limits(100, 60, dice.choice((4000, 12_000, 40_000)), 60)
    broadcasts = VoiceTracker(lambda message: None)
    dispatcher = Dispatcher(limits, broadcasts, lambda message: None, Metrics())
    dispatcher.set_accepting(True)
    slots = dice.choice((1, 1, 1, 2))
    workers = [LocalWorker(dispatcher, folder, slots) for _ in range(dice.choice((1, 2)))]
    for worker in workers:
        dispatcher.attach(worker)
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as clients:
        heard = [clients.create_task(listen(dispatcher, job, dice)) for job in chosen]
        while not all(client.done() for client in heard):
            await asyncio.sleep(0.001)
            dispatcher.tick()
    for job, client in zip(chosen, heard, strict=True):
        assert client.result() == expected[job.request_id], (seed, job)
    assert (dispatcher.running, dispatcher.waiting, dispatcher.preempted) == (0, 0, 0)
    for worker in workers:
        worker.pipeline.close()
    return sum(worker.preempted for worker in workers)


async def test_interleaved_jobs_give_the_same_audio_as_alone(tmp_path: Path) -> None:
    expected = {job.request_id: await alone(job) for job in JOBS}
    preempted = 0
    for first in range(0, INTERLEAVINGS, 10):
        runs = (interleaved(seed, tmp_path, expected) for seed in range(first, first + 10))
        preempted += sum(await asyncio.gather(*runs))
    assert preempted > INTERLEAVINGS
