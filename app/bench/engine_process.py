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
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch

from app.bench.arithmetic import counted_flop
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
from app.core.audio import SAMPLE_RATE, Samples
from app.core.cpu import cpu_count
from app.core.engine_config import EngineConfig, QueueSizes
from app.core.errors import EngineFailed
from app.core.log import set_up_logging
from app.core.params import SynthesisParams
from app.engines.base import Engine, SpeechSlice, TextChunk
from app.engines.chatterbox.variants import VARIANTS
from app.engines.registry import load_engine
from app.pipeline.joiner import ChunkJoiner, to_int16
from app.pipeline.pipeline import Pipeline

QUEUES = QueueSizes(slices=2, audio=3)
"""The defaults of the service."""

FULL_SCALE = 32767

_engine: Engine
_device: str
_defaults: dict[str, Any]
_runner: asyncio.Runner


@dataclass(frozen=True)
class StreamedJob:
    """A job as a client receives it; times in seconds since its request."""

    first_audible_s: float
    total_s: float
    audio: Samples

    @property
    def audio_s(self) -> float:
        return len(self.audio) / SAMPLE_RATE


@dataclass
class StagedJob:
    """A job whose stages ran one after the other.

    `stages_s` are seconds by stage, `slices_s` of S3Gen for each slice, `chunks_s` of each text
    chunk; `memory_gb` was measured after each chunk. `flop`: see `arithmetic.counted_flop`.
    """

    stages_s: dict[str, float]
    flop: dict[str, float]
    slices_s: list[float] = field(default_factory=list)
    chunks_s: list[float] = field(default_factory=list)
    memory_gb: list[float] = field(default_factory=list)
    tokens: Tokens = field(default_factory=lambda: np.empty(0, np.int64))
    audio: Samples = field(default_factory=lambda: np.empty(0, np.float32))


class ConcurrentJobs(NamedTuple):
    """Tokens of several jobs, each alone and all together, with T3's times of each job or take."""

    alone: list[Tokens]
    alone_s: list[float]
    together: list[Tokens]
    together_s: list[float]
    streamed: list[StreamedJob]


def load(config: EngineConfig, tiny: bool) -> tuple[dict[str, str | int], dict[str, Any]]:
    """Load and warm up; raises `StartupError` as in a worker.

    Returns descriptions of the machine and of the loaded engine.
    """
    global _engine, _device, _defaults, _runner
    set_up_logging("ERROR", "bench")
    torch.set_num_threads(config.threads)
    _device, _runner = config.device, asyncio.Runner()
    _defaults = VARIANTS[config.variant].defaults
    began = perf_counter()
    with tiny_sizes() if tiny else nullcontext(), without_end_token():
        _engine = load_engine("chatterbox", config)
    loaded = perf_counter()
    _runner.run(_engine.warm_up())
    return _machine(config), {
        "compiled": _engine.compiled,
        "slots": config.slots,
        "load_s": loaded - began,
        "warm_up_s": perf_counter() - loaded,
        "notice": _engine.notice,
    }


def run_streamed(text: str, seed: int, tokens: int) -> StreamedJob:
    """Run a job in the service's pipeline."""
    with limited_to(tokens):
        return _runner.run(_run_streamed(text, seed))


def run_stages(chunks: list[str], seed: int, tokens: int) -> StagedJob:
    """Run a job stage by stage, waiting for the device after each, and time them."""
    with limited_to(tokens):
        return _runner.run(_run_stages(chunks, seed))


def run_concurrent(text: str, jobs: int, tokens: int, takes: int) -> ConcurrentJobs:
    """Run `jobs` jobs alone and together in T3, the latter `takes` times, then in the pipeline."""
    with limited_to(tokens):
        return _runner.run(_run_concurrent(text, range(jobs), takes))


def decode_tokens(tokens: Tokens, seed: int) -> Samples:
    """Decode the tokens in one slice without a watermark; returns float32 [960·n]."""
    decoder = _engine.new_decoder(_engine.default_voice, _params(seed))
    return _runner.run(decoder.decode(SpeechSlice(tokens.tolist(), last=True)))


def memory_gb() -> float:
    return peak_memory_gb(_device)


def _params(seed: int) -> SynthesisParams:
    """The model's defaults, as a worker takes them."""
    return msgspec.structs.replace(SynthesisParams(seed=seed), **_defaults)


async def _run_streamed(text: str, seed: int) -> StreamedJob:
    began, first_s, pcm = perf_counter(), None, bytearray()

    async def receive(piece: bytes) -> None:
        nonlocal first_s
        if first_s is None and first_audible_sample(piece) is not None:
            first_s = perf_counter() - began
        pcm.extend(piece)

    pipeline = Pipeline(_engine, QUEUES)
    try:
        await pipeline.run(text, _engine.default_voice, _params(seed), receive)
    finally:
        pipeline.close()
    if first_s is None:
        raise EngineFailed("the engine's audio is silent")
    return StreamedJob(first_s, perf_counter() - began, _samples(pcm))


async def _run_stages(chunks: list[str], seed: int) -> StagedJob:
    params = _params(seed)
    timer = StageTimer(torch.cuda.synchronize if _device == "cuda" else lambda: None)
    decoder = _engine.new_decoder(_engine.default_voice, params)
    joiner = ChunkJoiner(params, _engine.sample_rate)
    watermark = _engine.new_watermark()
    all_slices, pcm = [], bytearray()

    def mark(audio: Samples, last: bool) -> None:
        with timer.stage("watermark"):
            marked = watermark.push(audio, last) if watermark else audio
        pcm.extend(to_int16(marked))

    with timed_stages(timer), counted_flop() as flop:
        job = StagedJob(timer.seconds, flop)
        for index, text in enumerate(chunks):
            began = perf_counter()
            with timer.stage("T3"):
                slices = await _speech_slices(TextChunk(text, index), params)
            all_slices += slices
            for piece in slices:
                sliced = perf_counter()
                with timer.stage("rest of S3Gen"):
                    audio = await decoder.decode(piece)
                job.slices_s.append(perf_counter() - sliced)
                with timer.stage("PCM"):
                    mark(joiner.push(audio, piece.last), last=False)
            job.chunks_s.append(perf_counter() - began)
            job.memory_gb.append(current_memory_gb(_device))
        with timer.stage("PCM"):
            mark(joiner.finish(), last=True)
    job.tokens, job.audio = _tokens(all_slices), _samples(pcm)
    return job


async def _run_concurrent(text: str, seeds: Iterable[int], takes: int) -> ConcurrentJobs:
    async def tokens_of(seed: int) -> Tokens:
        return _tokens(await _speech_slices(TextChunk(text, 0), _params(seed)))

    alone, alone_s, together_s = [], [], []
    for seed in seeds:
        began = perf_counter()
        alone.append(await tokens_of(seed))
        alone_s.append(perf_counter() - began)
    for _ in range(takes):
        began = perf_counter()
        together = await asyncio.gather(*map(tokens_of, seeds))
        together_s.append(perf_counter() - began)
    streamed = await asyncio.gather(*(_run_streamed(text, seed) for seed in seeds))
    return ConcurrentJobs(alone, alone_s, together, together_s, streamed)


async def _speech_slices(chunk: TextChunk, params: SynthesisParams) -> list[SpeechSlice]:
    slices = _engine.speech_tokens(chunk, _engine.default_voice, params)
    return [piece async for piece in slices]


def _tokens(slices: list[SpeechSlice]) -> Tokens:
    return np.array([token for piece in slices for token in piece.tokens], np.int64)


def _samples(pcm: bytearray) -> Samples:
    return np.frombuffer(pcm, "<i2").astype(np.float32) / FULL_SCALE


def _machine(config: EngineConfig) -> dict[str, str | int]:
    names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    gpu = {"gpu": torch.cuda.get_device_name()} if config.device == "cuda" else {}
    return gpu | {
        "cpu": names[0] if names else platform.machine(),
        "cores": cpu_count(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "threads": config.threads,
        "torch": torch.__version__,
    }
