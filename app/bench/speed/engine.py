"""This service's engine in a process of its own, set up as a worker has it: `load`, then the rest.

The process computes nothing else, so these functions find the engine in the module.
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
from numpy.typing import NDArray

from app.bench.checkpoint import tiny_sizes
from app.bench.listener import first_audible
from app.bench.speed.clock import Clock
from app.bench.speed.hooks import clocked, cut_at, endless
from app.bench.speed.memory import peak_gb, present_gb
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
"""As by default."""

Tokens = NDArray[np.int64]

_engine: Engine
_device: str
_runner: asyncio.Runner


@dataclass(frozen=True)
class Loaded:
    """`machine` is what it runs on, for people; `notice` what the engine says of itself."""

    machine: dict[str, str | int]
    compiled: bool
    notice: str | None
    load_s: float
    warm_up_s: float


@dataclass(frozen=True)
class Heard:
    """A job as its listener has it; times in seconds since it was asked for."""

    first_audible_s: float
    total_s: float
    pcm: bytes


@dataclass
class Dissected:
    """A job whose stages ran one after the other. Seconds by stage, and of S3Gen for each slice.

    `chunks_s`: of each text chunk; `memory_gb`: after each.
    """

    tokens: Tokens
    stages_s: dict[str, float] = field(default_factory=dict)
    slices_s: list[float] = field(default_factory=list)
    chunks_s: list[float] = field(default_factory=list)
    memory_gb: list[float] = field(default_factory=list)
    pcm: bytes = b""


@dataclass(frozen=True)
class Together:
    """Several jobs' tokens, alone and at once, and how long T3 had for each and for all of them.

    `together_s`: of each take, the last of which gave the tokens.
    """

    alone: list[Tokens]
    alone_s: list[float]
    together: list[Tokens]
    together_s: list[float]
    heard: list[Heard]


def load(config: EngineConfig, tiny: bool) -> Loaded:
    """Raises `StartupError` as a worker would."""
    global _engine, _device, _runner
    set_up_logging("ERROR", "bench")
    torch.set_num_threads(config.threads)
    _device, _runner = config.device, asyncio.Runner()
    began = perf_counter()
    with tiny_sizes() if tiny else nullcontext(), endless():
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


def speak(text: str, seed: int, tokens: int) -> Heard:
    """A job as the service runs it."""
    with cut_at(tokens):
        return _runner.run(_speak(text, seed))


def dissect(chunks: list[str], seed: int, tokens: int) -> Dissected:
    """A job whose stages wait for each other, and for the device, so that each can be timed."""
    with cut_at(tokens):
        return _runner.run(_dissect(chunks, seed))


def render(tokens: Tokens, seed: int) -> Samples:
    """What S3Gen makes of these tokens in one slice, float32 [960·n], unmarked."""

    async def decode() -> Samples:
        piece = SpeechSlice(tokens.tolist(), last=True)
        decoder = _engine.new_decoder(_engine.default_voice, SynthesisParams(seed=seed))
        return await decoder.decode(piece)

    return _runner.run(decode())


def compete(text: str, jobs: int, tokens: int, takes: int) -> Together:
    """`jobs` at once, T3 alone so many times, beside each of them alone."""
    with cut_at(tokens):
        return _runner.run(_compete(text, jobs, takes))


def memory_gb() -> float:
    """See `memory.peak_gb`."""
    return peak_gb(_device)


async def _speak(text: str, seed: int) -> Heard:
    began, first_s, pcm = perf_counter(), None, bytearray()

    async def hear(piece: bytes) -> None:
        nonlocal first_s
        if first_s is None and first_audible(piece) is not None:
            first_s = perf_counter() - began
        pcm.extend(piece)

    pipeline = Pipeline(_engine, QUEUES)
    try:
        await pipeline.run(text, _engine.default_voice, SynthesisParams(seed=seed), hear)
    finally:
        pipeline.close()
    if first_s is None:
        raise EngineFailed("nothing of what the engine says is audible")
    return Heard(first_s, perf_counter() - began, bytes(pcm))


async def _dissect(chunks: list[str], seed: int) -> Dissected:
    params = SynthesisParams(seed=seed)
    clock = Clock(_settle)
    decoder = _engine.new_decoder(_engine.default_voice, params)
    joiner = ChunkJoiner(params, _engine.sample_rate)
    watermark = _engine.new_watermark()
    tokens: list[list[int]] = []
    job = Dissected(np.empty(0, np.int64), clock.seconds)

    def marked(audio: Samples, last: bool) -> bytes:
        return to_int16(watermark.push(audio, last) if watermark else audio)

    with clocked(clock):
        for index, text in enumerate(chunks):
            began = perf_counter()
            with clock.runs("T3"):
                pieces = await _pieces(TextChunk(text, index), params)
            for piece in pieces:
                tokens.append(piece.tokens)
                sliced = perf_counter()
                with clock.runs("rest of S3Gen"):
                    audio = await decoder.decode(piece)
                job.slices_s.append(perf_counter() - sliced)
                with clock.runs("PCM, watermark"):
                    joined = joiner.push(audio, piece.last)
                    job.pcm += marked(joined, last=False)
            job.chunks_s.append(perf_counter() - began)
            job.memory_gb.append(present_gb(_device))
        with clock.runs("PCM, watermark"):
            job.pcm += marked(joiner.finish(), last=True)
    job.tokens = _joined(tokens)
    return job


async def _compete(text: str, jobs: int, takes: int) -> Together:
    chunk, seeds = TextChunk(text, 0), range(jobs)

    async def said(seed: int) -> Tokens:
        pieces = await _pieces(chunk, SynthesisParams(seed=seed))
        return _joined(piece.tokens for piece in pieces)

    alone, alone_s = [], []
    for seed in seeds:
        began = perf_counter()
        alone.append(await said(seed))
        alone_s.append(perf_counter() - began)
    together_s = []
    for _ in range(takes):
        began = perf_counter()
        together = await asyncio.gather(*map(said, seeds))
        together_s.append(perf_counter() - began)
    heard = await asyncio.gather(*(_speak(text, seed) for seed in seeds))
    return Together(alone, alone_s, together, together_s, heard)


async def _pieces(chunk: TextChunk, params: SynthesisParams) -> list[SpeechSlice]:
    pieces = _engine.speech_tokens(chunk, _engine.default_voice, params)
    return [piece async for piece in pieces]


def _joined(tokens: Iterable[list[int]]) -> Tokens:
    return np.array([token for piece in tokens for token in piece], np.int64)


def _settle() -> None:
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
