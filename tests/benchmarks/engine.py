"""How fast the Chatterbox engine is on this machine, with random weights; prints a table.

    python -m tests.benchmarks.engine                                 full size, best device
    python -m tests.benchmarks.engine --jobs 1 --jobs 32 --json figures.json
    python -m tests.benchmarks.engine --size tiny --device cpu        only to see that it runs

Needs the extra `test`, and for full size 3 GB in the temporary folder, where the weights are made
once. Every job speaks the same text with another seed, through the pipeline that a worker runs. The
text is so short that each is cut at the same token. Random weights say nothing about how it sounds,
but take as long as real ones.
"""

import asyncio
import json
import resource
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from app.engines.base import EngineConfig
from app.engines.chatterbox.engine import ChatterboxEngine
from app.messages import BYTES_PER_SAMPLE, SAMPLE_RATE, SynthesisParams
from app.worker.pipeline import Pipeline, QueueSizes
from tests.checkpoint import full_checkpoint, make_checkpoint, tiny_sizes

SAMPLES_PER_TOKEN = 960

TEXT = "Sound."
"""For which the engine allows 70 tokens, 2.8 s; the random model's end comes at about 100."""


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


async def measure(engine: ChatterboxEngine, jobs: int) -> Figures:
    """`jobs` at once."""
    pipeline = Pipeline(engine, QueueSizes(2, 3))
    began = perf_counter()

    async def speak(seed: int) -> tuple[float, int]:
        first, size = 0.0, 0

        async def hear(pcm: bytes) -> None:
            nonlocal first, size
            first = first or perf_counter() - began
            size += len(pcm)

        await pipeline.run(TEXT, engine.default_voice, SynthesisParams(seed=seed), hear)
        return first, size // BYTES_PER_SAMPLE

    spoken = await asyncio.gather(*map(speak, range(jobs)))
    total = perf_counter() - began
    pipeline.close()
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


def memory_gb() -> float:
    """The most that was in use so far: of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


async def benchmark(size: str, device: str, jobs: list[int], compile: bool) -> list[Figures]:
    with ExitStack() as stack:
        if size == "tiny":
            stack.enter_context(tiny_sizes())
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            make_checkpoint(folder)
        else:
            folder = full_checkpoint()
        config = EngineConfig(
            device, torch.get_num_threads(), str(folder), slots=max(jobs), torch_compile=compile
        )
        began = perf_counter()
        engine = ChatterboxEngine(config)
        loaded = perf_counter()
        await engine.warm_up()
        Console(stderr=True).print(
            f"{device}, {config.threads} threads: loaded in {loaded - began:.1f} s, "
            f"warm after another {perf_counter() - loaded:.1f} s, compiled: {engine.compiled}",
            engine.notice or "",
            highlight=False,
        )
        rows = [await measure(engine, count) for count in jobs]
        await engine.close()
    return rows


def main(
    size: Annotated[str, typer.Option(help="full or tiny")] = "full",
    device: Annotated[str, typer.Option(help="cuda or cpu")] = (
        "cuda" if torch.cuda.is_available() else "cpu"
    ),
    jobs: Annotated[list[int], typer.Option(help="at once; may be given again")] = [1],  # noqa: B006
    compile: Annotated[bool, typer.Option()] = torch.cuda.is_available(),
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure the Chatterbox engine with random weights."""
    rows = asyncio.run(benchmark(size, device, jobs, compile))
    table = Table(*(field.name.replace("_", " ") for field in fields(Figures)))
    for row in rows:
        table.add_row(*(f"{value:.3g}" for value in asdict(row).values()))
    Console().print(table)
    if json_file:
        json_file.write_text(json.dumps([asdict(row) for row in rows], indent=2))


if __name__ == "__main__":
    typer.run(main)
