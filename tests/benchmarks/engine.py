"""How fast the Chatterbox engine is on this machine, with random weights; prints tables.

    python -m tests.benchmarks.engine                                 full size, best device
    python -m tests.benchmarks.engine --jobs 1 --jobs 32 --json figures.json
    python -m tests.benchmarks.engine --rounds 3                      beside the package itself
    python -m tests.benchmarks.engine --rounds 3 --t3-dtype int8 --prompt-seconds 3
    python -m tests.benchmarks.engine --size tiny --device cpu        only to see that it runs

Needs the extra `test`, and for full size 3 GB in the temporary folder, where the weights are made
once. Every job speaks the same text with another seed, through the pipeline that a worker runs. The
text is so short that each is cut at the same token. Random weights say nothing about how it sounds,
but take as long as real ones.

With `--rounds`, the package's own `generate` and this engine take turns, each warm, with the same
text, seed, voice and number of threads. First they must have said the same.
"""

import asyncio
import json
import multiprocessing
import resource
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import msgspec
import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from app.engines.base import EngineConfig, SpeechSlice, TextChunk
from app.engines.chatterbox.engine import ChatterboxEngine
from app.engines.chatterbox.s3gen import StreamDecoder
from app.engines.chatterbox.voices import ChatterboxVoice
from app.messages import BYTES_PER_SAMPLE, SAMPLE_RATE, SynthesisParams, Tuning
from app.worker.pipeline import Pipeline, QueueSizes
from tests.benchmarks import package
from tests.checkpoint import full_checkpoint, make_checkpoint, tiny_sizes

SAMPLES_PER_TOKEN = 960

TEXT, TOKENS = "Sound.", 70
"""For which the engine allows so many, 2.8 s; the random model's end comes at about 100."""

REPEAT = 5
"""The checkpoint's voice has a prompt of two seconds, recordings usually have ten or more."""

AUDIBLE = 33
"""Of int16's 32,767: -60 dB."""

MOST_DIFFERENT_DB = -55
"""How loud the difference to the package's waveform may be beside it."""


@dataclass(frozen=True)
class Figures:
    """One row; seconds but for the last three. First audio: the median and the latest job's."""

    jobs: int
    first_audio: float
    first_audio_latest: float
    total: float
    audio: float
    real_time_factor: float
    tokens_per_second: float
    memory_gb: float


@dataclass(frozen=True)
class Comparison:
    """Seconds, medians over the rounds, but where the name says otherwise."""

    package_total: float
    package_memory_gb: float
    first_audio: float
    total: float
    first_audio_ratio: float
    total_ratio: float
    memory_gb: float
    t3_tokens_per_second: float
    slices: list[float]
    difference_db: float | None  # of one slice's waveform; None: it is not meant to be the same


class TimedEngine(ChatterboxEngine):
    """Notes how long S3Gen took for each slice, waiting included."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        self.slices: list[float] = []

    async def decode(self, stream: StreamDecoder, piece: SpeechSlice, first: bool) -> torch.Tensor:
        began = perf_counter()
        audio = await super().decode(stream, piece, first)
        self.slices.append(perf_counter() - began)
        return audio


# --- The engine alone -------------------------------------------------------------------------


async def measure(engine: ChatterboxEngine, voice: ChatterboxVoice, jobs: int) -> Figures:
    """`jobs` at once."""
    began = perf_counter()
    spoken = await asyncio.gather(*(speak(engine, voice, seed) for seed in range(jobs)))
    total = perf_counter() - began
    firsts = [first for first, _ in spoken]
    samples = sum(samples for _, samples in spoken)
    return Figures(
        jobs=jobs,
        first_audio=median(firsts),
        first_audio_latest=max(firsts),
        total=total,
        audio=samples / SAMPLE_RATE,
        real_time_factor=total / (samples / SAMPLE_RATE) * jobs,
        tokens_per_second=samples / SAMPLES_PER_TOKEN / total,
        memory_gb=memory_gb(),
    )


async def speak(engine: ChatterboxEngine, voice: ChatterboxVoice, seed: int) -> tuple[float, int]:
    """When the first audible sample came, in seconds, and how many samples there were in all."""
    began, first, size = perf_counter(), 0.0, 0

    async def hear(pcm: bytes) -> None:
        nonlocal first, size
        if not first and (abs(np.frombuffer(pcm, np.int16).astype(int)) > AUDIBLE).any():
            first = perf_counter() - began
        size += len(pcm)

    pipeline = Pipeline(engine, QueueSizes(2, 3))
    await pipeline.run(TEXT, voice, SynthesisParams(seed=seed), hear)
    pipeline.close()
    return first, size // BYTES_PER_SAMPLE


def memory_gb() -> float:
    """The most that was in use so far: of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


# --- Beside the package -----------------------------------------------------------------------


async def compare(
    engine: TimedEngine, voice: ChatterboxVoice, other: ProcessPoolExecutor, rounds: int
) -> Comparison:
    """Raises AssertionError when the two do not say the same."""

    def generate(seed: int, watermark: bool) -> package.Spoken:
        mixed = np.random.SeedSequence((seed, 0)).generate_state(1)
        return other.submit(package.generate, TEXT, int(mixed[0]), seed, watermark).result()

    tokens_per_second, audio = await in_one_slice(engine, voice, SynthesisParams(seed=1))
    theirs = generate(1, watermark=False)
    exact = voice.s3gen.prompt_token.shape[1] == whole(engine).s3gen.prompt_token.shape[1]
    exact &= engine._tuning.t3_dtype in ("auto", "float32")
    assert as_long(len(audio), len(theirs.audio), exact)
    difference = decibels(audio - theirs.audio, theirs.audio) if exact else None
    assert difference is None or difference < MOST_DIFFERENT_DB, f"{difference:.0f} dB apart"

    totals, firsts, streams = [], [], []
    engine.slices.clear()
    for seed in range(2, 2 + rounds):
        theirs = generate(seed, watermark=True)
        began = perf_counter()
        first, samples = await speak(engine, voice, seed)
        assert as_long(samples, len(theirs.audio), exact)
        totals.append(theirs.seconds)
        firsts.append(first)
        streams.append(perf_counter() - began)
    each = np.array(engine.slices).reshape(rounds, -1)
    return Comparison(
        package_total=median(totals),
        package_memory_gb=theirs.memory_gb,
        first_audio=median(firsts),
        total=median(streams),
        first_audio_ratio=median(map(float.__truediv__, firsts, totals)),
        total_ratio=median(map(float.__truediv__, streams, totals)),
        memory_gb=memory_gb(),
        t3_tokens_per_second=tokens_per_second,
        slices=np.median(each, axis=0).tolist(),
        difference_db=difference,
    )


async def in_one_slice(
    engine: ChatterboxEngine, voice: ChatterboxVoice, params: SynthesisParams
) -> tuple[float, Any]:
    """T3's speed, with nothing beside it, and what S3Gen makes of all tokens at once."""
    began = perf_counter()
    slices = engine.speech_tokens(TextChunk(TEXT, 0), voice, params)
    tokens = torch.cat([piece.tokens async for piece in slices])
    speed = len(tokens) / (perf_counter() - began)
    audio = await engine.new_decoder(voice, params).decode(SpeechSlice(tokens, 0, last=True))
    return speed, engine.to_host(audio)


def as_long(samples: int, right: int, exact: bool) -> bool:
    """Where other tokens are said than the package says, a few more or less may be no speech."""
    return samples == right or (
        not exact and abs(samples - right) < SAMPLES_PER_TOKEN * TOKENS / 10
    )


def decibels(difference: Any, right: Any) -> float:
    return float(10 * np.log10(np.square(difference).mean() / np.square(right).mean()))


# --- What is measured -------------------------------------------------------------------------


def whole(engine: ChatterboxEngine) -> ChatterboxVoice:
    """The checkpoint's voice with a prompt of ten seconds."""
    assert engine._models.default_voice
    voice = engine._models.default_voice
    short = voice.s3gen
    reference = replace(
        short,
        prompt_token=short.prompt_token.repeat(1, REPEAT),
        prompt_token_len=short.prompt_token_len * REPEAT,
        prompt_feat=short.prompt_feat.repeat(1, REPEAT, 1),
    )
    return replace(voice, s3gen=reference)


@contextmanager
def checkpoint(size: str) -> Iterator[Path]:
    if size == "full":
        yield full_checkpoint()
        return
    with tiny_sizes(), tempfile.TemporaryDirectory() as folder:
        yield make_checkpoint(Path(folder))


async def benchmark(
    size: str, config: EngineConfig, jobs: list[int], rounds: int
) -> list[Figures | Comparison]:
    with checkpoint(size) as folder, ExitStack() as stack:
        config = replace(config, model_path=str(folder))
        torch.set_num_threads(config.threads)
        began = perf_counter()
        engine = TimedEngine(config)
        loaded = perf_counter()
        await engine.warm_up()
        Console(stderr=True).print(
            f"{config.device}, {config.threads} threads, {config.tuning}: "
            f"loaded in {loaded - began:.1f} s, warm after {perf_counter() - loaded:.1f} s more, "
            f"compiled: {engine.compiled}",
            engine.notice or "",
            highlight=False,
        )
        voice = whole(engine).with_prompt_of(config.tuning.voice_prompt_seconds)
        if rounds:
            load = (folder, size, config.device, config.threads, TOKENS, REPEAT)
            spawn = multiprocessing.get_context("spawn")
            other = stack.enter_context(ProcessPoolExecutor(1, spawn, package.load, load))
            rows: list[Figures | Comparison] = [await compare(engine, voice, other, rounds)]
        else:
            rows = [await measure(engine, voice, count) for count in jobs]
        await engine.close()
    return rows


def main(
    size: Annotated[str, typer.Option(help="full or tiny")] = "full",
    device: Annotated[str, typer.Option(help="cuda or cpu")] = (
        "cuda" if torch.cuda.is_available() else "cpu"
    ),
    threads: Annotated[int, typer.Option(help="of the CPU")] = torch.get_num_threads(),
    jobs: Annotated[list[int], typer.Option(help="at once; may be given again")] = [1],  # noqa: B006
    rounds: Annotated[int, typer.Option(help="beside the package; 0: the engine alone")] = 0,
    t3_dtype: Annotated[str, typer.Option(help="as TTS_T3_DTYPE")] = "auto",
    prompt_seconds: Annotated[int, typer.Option(help="as TTS_VOICE_PROMPT_SECONDS")] = 10,
    first_slice: Annotated[int, typer.Option(help="as TTS_FIRST_SLICE_TOKENS")] = 20,
    growth: Annotated[float, typer.Option(help="as TTS_SLICE_GROWTH")] = 2.0,
    compile: Annotated[bool, typer.Option()] = torch.cuda.is_available(),
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure the Chatterbox engine with random weights."""
    tuning = msgspec.convert(
        {
            "t3_dtype": t3_dtype,
            "voice_prompt_seconds": prompt_seconds,
            "first_slice_tokens": first_slice,
            "slice_growth": growth,
        },
        Tuning,
    )
    config = EngineConfig(
        device, threads, "", slots=max(jobs), torch_compile=compile, tuning=tuning
    )
    rows = [asdict(row) for row in asyncio.run(benchmark(size, config, jobs, rounds))]
    table = Table(show_header=False)
    for name in rows[0]:
        table.add_row(name.replace("_", " "), *(shown(row[name]) for row in rows))
    Console().print(table)
    if json_file:
        json_file.write_text(json.dumps(rows, indent=2))


def shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(shown, value))
    return "–" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    typer.run(main)
