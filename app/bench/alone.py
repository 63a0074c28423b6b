"""The server alone: what it costs where speech costs nothing, beside handlers that do no more.

Called by `chatterbox-tts bench serve` without a URL. Service, handlers (`bench.bare`) and clients
share the machine; so what is compared is CPU time, and all are measured in turns.
"""

import asyncio
import socket
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from app.bench.engine import SAMPLES_PER_TOKEN
from app.bench.load import Load, Result, Subject
from app.bench.service import Service
from app.core.audio import BYTES_PER_SAMPLE, SAMPLE_RATE

ENGINE = "app.bench.engine:PacedEngine"
WORKERS = 2
SLICE_TOKENS = 5
"""The least that a request may ask for: five audio chunks a second."""

TINY = "Hi."
AT_ONCE = 16
ROUNDS = 3
AHEAD_S = 60
"""As by default."""


@dataclass(frozen=True)
class Figure:
    """One measured value; `target` is the most it should be, or the `least`."""

    name: str
    value: float
    unit: str
    target: float | None = None
    least: bool = False

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.value >= self.target if self.least else self.value <= self.target

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"met": self.met}


@dataclass(frozen=True)
class Effort:
    """How long the tiny requests of one client and of many take, in each round.

    And how many paced streams there are, each of so many `letters`: a token of audio each, all in
    one text chunk.
    """

    single_s: float = 0.7
    crowd_s: float = 1.2
    streams: int = 200
    letters: int = 150


async def measure(folder: Path, effort: Effort, on_progress: Callable[[str], None]) -> list[Figure]:
    """`folder` is empty, and keeps the log. `on_progress` gets what is being done."""
    slots = -(-effort.streams // WORKERS)
    size = len(TINY) * SAMPLES_PER_TOKEN * BYTES_PER_SAMPLE
    async with (
        Service.running(
            folder,
            MODEL=ENGINE,
            WORKERS_PER_DEVICE=WORKERS,
            CONCURRENT_REQUESTS_PER_WORKER=slots,
            MAX_QUEUED_REQUESTS=AT_ONCE,
            MAX_AHEAD_SECONDS=AHEAD_S,
        ) as own,
        _handler("route", size) as route,
        _handler("raw", size) as raw,
    ):
        service = await asyncio.to_thread(Subject.at, own.url, own.key)
        on_progress("tiny requests")
        single, crowd = await _in_turns([service, route, raw], effort)
        on_progress("paced streams")
        paced = await service.bear(
            Load(
                _asked("o" * effort.letters, audio_tokens_per_slice=SLICE_TOKENS),
                effort.streams,
                requests=effort.streams,
                paced=True,
                ramp_s=1.0,
            )
        )
    return [*_of_tiny(single, crowd), *_of_paced(paced)]


class Round(NamedTuple):
    """What the same load came to, one after the other."""

    service: Result
    route: Result
    raw: Result


async def _in_turns(subjects: list[Subject], effort: Effort) -> tuple[list[Round], list[Round]]:
    """With one client, and with many."""
    single = Load(_asked(TINY), seconds=effort.single_s)
    crowd = Load(_asked(TINY), AT_ONCE, seconds=effort.crowd_s)
    for each in subjects:
        await each.bear(Load(_asked(TINY), AT_ONCE, requests=200))  # warm

    async def rounds(load: Load) -> list[Round]:
        return [Round(*[await each.bear(load) for each in subjects]) for _ in range(ROUNDS)]

    return await rounds(single), await rounds(crowd)


def _of_tiny(single: list[Round], crowd: list[Round]) -> list[Figure]:
    """Of the rounds, the one that the machine disturbed least."""
    own_ms, route_ms, raw_ms = (
        min(result.cpu_ms("master") for result in results) for results in zip(*crowd, strict=True)
    )
    added_50, added_99 = (
        min(part(each.service) for each in single) - min(part(each.raw) for each in single)
        for part in (_p50, _p99)
    )
    errors = sum(result.requests - result.whole for each in single + crowd for result in each)
    per_second = max(each.service.per_second for each in crowd)
    workers_ms = min(each.service.cpu_ms("workers") for each in crowd)
    return [
        Figure("tiny requests", per_second, "/s", 800, least=True),
        Figure("master: CPU a request", own_ms, "ms"),
        Figure("streaming FastAPI route: CPU a request", route_ms, "ms"),
        Figure("raw ASGI function: CPU a request", raw_ms, "ms"),
        Figure("master / streaming FastAPI route", own_ms / route_ms, "×", 3),
        Figure("master / raw ASGI function", own_ms / raw_ms, "×"),
        Figure("workers: CPU a request", workers_ms, "ms"),
        Figure("time to first byte over a raw one's, p50", added_50, "ms"),
        Figure("time to first byte over a raw one's, p99", added_99, "ms", 5),
        Figure("requests that failed", errors, "", 0),
    ]


def _of_paced(paced: Result) -> list[Figure]:
    chunks = paced.audio_s * SAMPLE_RATE / SAMPLES_PER_TOKEN / SLICE_TOKENS
    late = paced.lateness_ms
    share = 100 * paced.cpu_s["master"] / paced.seconds
    return [
        Figure("paced streams", paced.requests, ""),
        Figure("streams that failed", paced.requests - paced.whole, "", 0),
        Figure("master: share of a core", share, "%", 25),
        Figure("master: CPU an audio chunk", 1000 * paced.cpu_s["master"] / chunks, "ms", 0.2),
        Figure("lateness, p50", late.p50 if late else float("nan"), "ms"),
        Figure("lateness, p99", late.p99 if late else float("nan"), "ms", 50),
    ]


def _p50(result: Result) -> float:
    return result.first_byte_ms.p50 if result.first_byte_ms else float("nan")


def _p99(result: Result) -> float:
    return result.first_byte_ms.p99 if result.first_byte_ms else float("nan")


def _asked(text: str, **others: object) -> dict[str, Any]:
    return {"text": text, "format": "raw_pcm", "chunk_overlap_method": "zero"} | others


@asynccontextmanager
async def _handler(kind: str, size: int) -> AsyncIterator[Subject]:
    """One of `bench.bare`'s, streaming `size` bytes, seen as a service whose master it is."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        port = listener.getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app.bench.bare", kind, str(listener.fileno()), str(size)),
            pass_fds=[listener.fileno()],
            stdin=DEVNULL,
            cwd=Path(__file__).parents[2],
            start_new_session=True,
        )
    try:
        at = f"http://127.0.0.1:{port}"
        yield Subject(at, "", {"master": [psutil.Process(process.pid)]})
    finally:
        process.kill()
        await process.wait()
