"""This service's engine in a process of its own, set up as in a worker: `load`, then the rest.

The process has one engine, kept in this module's globals.
"""

import asyncio
import platform
import re
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from app.bench.checkpoint import tiny_sizes
from app.bench.client import first_audible_sample
from app.bench.equivalence import Tokens
from app.bench.stages import (
    StageTimer,
    current_memory_gb,
    limited_to,
    peak_memory_gb,
    timed_stages,
    without_end_token,
)
from app.core.audio import Samples
from app.core.engine_config import EngineConfig, QueueSizes
from app.core.errors import EngineFailed
from app.core.log import set_up_logging
from app.core.params import SynthesisParams
from app.core.process_env import cpu_count
from app.engines.base import Engine, SpeechSlice, TextChunk
from app.engines.registry import load_engine
from app.pipeline.joiner import ChunkJoiner, to_int16
from app.pipeline.pipeline import Pipeline

QUEUES = QueueSizes(slices=2, audio=3)
"""The defaults of the service."""

_engine: Engine
_device: str
_runner: asyncio.Runner


@dataclass(frozen=True)
class Loaded:
    """The loaded engine; `machine` describes the hardware, `notice` is the engine's own."""

    machine: dict[str, str | int]
    compiled: bool
    notice: str | None
    load_s: float
    warm_up_s: float


@dataclass(frozen=True)
class StreamedJob:
    """A job as a client receives it; times in seconds since its request."""

    first_audible_s: float
    total_s: float
    pcm: bytes


@dataclass
class StagedJob:
    """A job whose stages ran one after the other.

    `stages_s` are seconds by stage, `slices_s` of S3Gen for each slice, `chunks_s` of each text
    chunk; `memory_gb` was measured after each chunk.
    """

    tokens: Tokens
    stages_s: dict[str, float] = field(default_factory=dict)
    slices_s: list[float] = field(default_factory=list)
    chunks_s: list[float] = field(default_factory=list)
    memory_gb: list[float] = field(default_factory=list)
    pcm: bytes = b""


@dataclass(frozen=True)
class ConcurrentJobs:
    """The tokens of several jobs, each alone and all together, with T3's times.

    `together_s` has one time for each take; `together` is from the last one.
    """

    alone: list[Tokens]
    alone_s: list[float]
    together: list[Tokens]
    together_s: list[float]
    streamed: list[StreamedJob]


def load(config: EngineConfig, tiny: bool) -> Loaded:
    """Load and warm up; raises `StartupError` as in a worker."""
    global _engine, _device, _runner
    set_up_logging("ERROR", "bench")
    torch.set_num_threads(config.threads)
    _device, _runner = config.device, asyncio.Runner()
    began = perf_counter()
    with tiny_sizes() if tiny else nullcontext(), without_end_token():
        _engine = load_engine("chatterbox", config)
    loaded = perf_counter()
    _runner.run(_engine.warm_up())
    return Loaded(
        _machine(config),
        _engine.compiled,
        _engine.notice,
        loaded - began,
        perf_counter() - loaded,
    )


def run_streamed(text: str, seed: int, tokens: int) -> StreamedJob:
    """Run a job in the service's pipeline."""
    with limited_to(tokens):
        return _runner.run(_run_streamed(text, seed))


def run_stages(chunks: list[str], seed: int, tokens: int) -> StagedJob:
    """Run a job stage by stage, waiting for the device after each, and time them."""
    with limited_to(tokens):
        return _runner.run(_run_stages(chunks, seed))


def decode_tokens(tokens: Tokens, seed: int) -> Samples:
    """Decode the tokens in one slice without a watermark; returns float32 [960·n]."""

    async def decode() -> Samples:
        piece = SpeechSlice(tokens.tolist(), last=True)
        decoder = _engine.new_decoder(_engine.default_voice, SynthesisParams(seed=seed))
        return await decoder.decode(piece)

    return _runner.run(decode())


def run_concurrent(text: str, jobs: int, tokens: int, takes: int) -> ConcurrentJobs:
    """Run `jobs` jobs alone and together in T3, the latter `takes` times, then in the pipeline."""
    with limited_to(tokens):
        return _runner.run(_run_concurrent(text, jobs, takes))


def memory_gb() -> float:
    return peak_memory_gb(_device)


async def _run_streamed(text: str, seed: int) -> StreamedJob:
    began, first_s, pcm = perf_counter(), None, bytearray()

    async def receive(piece: bytes) -> None:
        nonlocal first_s
        if first_s is None and first_audible_sample(piece) is not None:
            first_s = perf_counter() - began
        pcm.extend(piece)

    pipeline = Pipeline(_engine, QUEUES)
    try:
        await pipeline.run(text, _engine.default_voice, SynthesisParams(seed=seed), receive)
    finally:
        pipeline.close()
    if first_s is None:
        raise EngineFailed("the engine's audio is silent")
    return StreamedJob(first_s, perf_counter() - began, bytes(pcm))


async def _run_stages(chunks: list[str], seed: int) -> StagedJob:
    params = SynthesisParams(seed=seed)
    timer = StageTimer(_synchronize)
    decoder = _engine.new_decoder(_engine.default_voice, params)
    joiner = ChunkJoiner(params, _engine.sample_rate)
    watermark = _engine.new_watermark()
    tokens: list[list[int]] = []
    job = StagedJob(np.empty(0, np.int64), timer.seconds)

    def marked(audio: Samples, last: bool) -> bytes:
        return to_int16(watermark.push(audio, last) if watermark else audio)

    with timed_stages(timer):
        for index, text in enumerate(chunks):
            began = perf_counter()
            with timer.stage("T3"):
                pieces = await _speech_slices(TextChunk(text, index), params)
            for piece in pieces:
                tokens.append(piece.tokens)
                sliced = perf_counter()
                with timer.stage("rest of S3Gen"):
                    audio = await decoder.decode(piece)
                job.slices_s.append(perf_counter() - sliced)
                with timer.stage("PCM, watermark"):
                    joined = joiner.push(audio, piece.last)
                    job.pcm += marked(joined, last=False)
            job.chunks_s.append(perf_counter() - began)
            job.memory_gb.append(current_memory_gb(_device))
        with timer.stage("PCM, watermark"):
            job.pcm += marked(joiner.finish(), last=True)
    job.tokens = _concatenated(tokens)
    return job


async def _run_concurrent(text: str, jobs: int, takes: int) -> ConcurrentJobs:
    chunk, seeds = TextChunk(text, 0), range(jobs)

    async def tokens_of(seed: int) -> Tokens:
        pieces = await _speech_slices(chunk, SynthesisParams(seed=seed))
        return _concatenated(piece.tokens for piece in pieces)

    alone, alone_s = [], []
    for seed in seeds:
        began = perf_counter()
        alone.append(await tokens_of(seed))
        alone_s.append(perf_counter() - began)
    together_s = []
    for _ in range(takes):
        began = perf_counter()
        together = await asyncio.gather(*map(tokens_of, seeds))
        together_s.append(perf_counter() - began)
    streamed = await asyncio.gather(*(_run_streamed(text, seed) for seed in seeds))
    return ConcurrentJobs(alone, alone_s, together, together_s, streamed)


async def _speech_slices(chunk: TextChunk, params: SynthesisParams) -> list[SpeechSlice]:
    pieces = _engine.speech_tokens(chunk, _engine.default_voice, params)
    return [piece async for piece in pieces]


def _concatenated(pieces: Iterable[list[int]]) -> Tokens:
    return np.array([token for piece in pieces for token in piece], np.int64)


def _synchronize() -> None:
    if _device == "cuda":
        torch.cuda.synchronize()


def _machine(config: EngineConfig) -> dict[str, str | int]:
    names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    gpu = {"gpu": torch.cuda.get_device_name()} if config.device == "cuda" else {}
    return gpu | {
        "cpu": names[0] if names else platform.machine(),
        "cores": cpu_count(),
        "threads": config.threads,
        "torch": torch.__version__,
    }
