"""The cost of the server with an engine that costs nothing, beside minimal apps.

    python -m tests.benchmarks.server_overhead [--json FILE]

Service, baseline apps (`benchmarks.baseline_apps`) and clients share the machine; so CPU times are
compared, and all are measured in turns.
"""

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from rich.console import Console
from rich.table import Table

from app.bench.load import LoadResult, Target, Workload
from app.core.audio import BYTES_PER_SAMPLE, SAMPLE_RATE
from tests.support.engines import SAMPLES_PER_TOKEN
from tests.support.service import API_KEY, ROOT, running_service

ENGINE = "tests.support.signal_engine:PacedEngine"
WORKERS = 2
SLICE_TOKENS = 5
"""The minimum of the API: five audio chunks a second."""

TINY = "Hi."
CLIENTS = 16
AHEAD_S = 60
"""The default."""

NAN = float("nan")


@dataclass(frozen=True)
class Figure:
    """One measured value; `target` is its maximum."""

    name: str
    value: float
    unit: str
    target: float | None = None

    @property
    def met(self) -> bool | None:
        return None if self.target is None else self.value <= self.target


@dataclass(frozen=True)
class Effort:
    """How long tiny requests are made by one client and by many, in each round.

    `streams`: paced streams, each of `letters` letters, a token of audio each, in one text chunk.
    They begin over `ramp_s`, half of their length; at once, connecting them takes two slow cores.
    """

    single_s: float = 0.7
    many_s: float = 1.2
    rounds: int = 3
    warm_up_requests: int = 200
    streams: int = 200
    letters: int = 150
    ramp_s: float = 3.0


class Round(NamedTuple):
    """The same workload on each target, one after the other."""

    service: LoadResult
    route: LoadResult
    raw: LoadResult


async def measure(folder: Path, effort: Effort) -> list[Figure]:
    """Measure everything; `folder` is empty and keeps the service's log."""
    settings = {
        "MODEL": ENGINE,
        "WORKERS_PER_DEVICE": WORKERS,
        "CONCURRENT_REQUESTS_PER_WORKER": -(-effort.streams // WORKERS),
        "MAX_QUEUED_REQUESTS": CLIENTS,
        "MAX_AHEAD_SECONDS": AHEAD_S,
        "CUDA_VISIBLE_DEVICES": "",
    }
    size = len(TINY) * SAMPLES_PER_TOKEN * BYTES_PER_SAMPLE
    with (
        running_service(folder, **settings) as service,
        _baseline("route", size) as route,
        _baseline("raw", size) as raw,
    ):
        service.wait_until(service.is_idle, 60)
        target = Target.at(service.url, API_KEY)
        single, many = await _in_turns([target, route, raw], effort)
        params = _params("o" * effort.letters, audio_tokens_per_slice=SLICE_TOKENS)
        paced = await target.run(
            Workload(
                params,
                effort.streams,
                requests=effort.streams,
                paced=True,
                ramp_s=effort.ramp_s,
            )
        )
    return [*_tiny_figures(single, many), *_paced_figures(paced, _cpu_ms(many).route)]


async def _in_turns(targets: list[Target], effort: Effort) -> tuple[list[Round], list[Round]]:
    """Run tiny requests by one client, then by many."""
    for target in targets:
        await target.run(Workload(_params(TINY), CLIENTS, requests=effort.warm_up_requests))

    async def rounds(workload: Workload) -> list[Round]:
        return [
            Round(*[await each.run(workload) for each in targets]) for _ in range(effort.rounds)
        ]

    single = Workload(_params(TINY), seconds=effort.single_s)
    many = Workload(_params(TINY), CLIENTS, seconds=effort.many_s)
    return await rounds(single), await rounds(many)


class CpuTimes(NamedTuple):
    """CPU time of a request in the server's process, in milliseconds."""

    service: float
    route: float
    raw: float


def _cpu_ms(rounds: list[Round]) -> CpuTimes:
    """Take the best of the rounds, which the machine disturbed least."""
    return CpuTimes(
        *(min(each.cpu_ms("master") for each in runs) for runs in zip(*rounds, strict=True))
    )


def _tiny_figures(single: list[Round], many: list[Round]) -> list[Figure]:
    own_ms, route_ms, raw_ms = _cpu_ms(many)
    added_50, added_99 = (
        min(_first_byte_ms(each.service, part) for each in single)
        - min(_first_byte_ms(each.raw, part) for each in single)
        for part in ("p50", "p99")
    )
    errors = sum(result.requests - result.succeeded for each in single + many for result in each)
    per_second = max(each.service.per_second for each in many)
    workers_ms = min(each.service.cpu_ms("workers") for each in many)
    return [
        Figure("tiny requests", per_second, "/s"),
        Figure("master: CPU a request", own_ms, "ms"),
        Figure("streaming FastAPI route: CPU a request", route_ms, "ms"),
        Figure("raw ASGI function: CPU a request", raw_ms, "ms"),
        Figure("master / streaming FastAPI route", own_ms / route_ms, "×", 3.5),
        Figure("master / raw ASGI function", own_ms / raw_ms, "×"),
        Figure("workers: CPU a request", workers_ms, "ms"),
        Figure("time to first byte over a raw one's, p50", added_50, "ms"),
        Figure("time to first byte over a raw one's, p99", added_99, "ms", 5),
        Figure("requests that failed", errors, "", 0),
    ]


def _paced_figures(paced: LoadResult, route_ms: float) -> list[Figure]:
    """`route_ms`: CPU time of a request to the streaming FastAPI route, the machine's yardstick."""
    cpu_ms = 1000 * paced.cpu_s["master"]
    chunks = paced.audio_s * SAMPLE_RATE / SAMPLES_PER_TOKEN / SLICE_TOKENS
    late = paced.lateness_ms
    share = 100 * paced.cpu_s["master"] / paced.seconds
    return [
        Figure("paced streams", paced.requests, ""),
        Figure("streams that failed", paced.requests - paced.succeeded, "", 0),
        Figure("master: share of a core", share, "%"),
        Figure("a second of them / FastAPI route", cpu_ms / paced.seconds / route_ms, "×", 1000),
        Figure("master: CPU an audio chunk", cpu_ms / chunks, "ms"),
        Figure("an audio chunk / FastAPI route", cpu_ms / chunks / route_ms, "×", 1),
        Figure("lateness, p50", late.p50 if late else NAN, "ms"),
        Figure("lateness, p99", late.p99 if late else NAN, "ms", 50),
    ]


def _first_byte_ms(result: LoadResult, part: str) -> float:
    return getattr(result.first_byte_ms, part) if result.first_byte_ms else NAN


def _params(text: str, **others: object) -> dict[str, Any]:
    return {"text": text, "format": "raw_pcm", "chunk_overlap_method": "zero"} | others


@contextmanager
def _baseline(kind: str, size: int) -> Iterator[Target]:
    """Run a baseline app that streams `size` bytes; its process counts as the master."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        port = listener.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.baseline_apps", kind,
             str(listener.fileno()), str(size)],
            pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, cwd=ROOT,
            start_new_session=True,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        yield Target(url, "", {"master": [psutil.Process(process.pid)]})
    finally:
        process.kill()
        process.wait()


def main(arguments: list[str] | None = None, effort: Effort | None = None) -> None:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.server_overhead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="a file for the figures")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="tts-bench-") as folder:
        figures = asyncio.run(measure(Path(folder), effort or Effort()))
    table = Table("", "measured", "", "target", "", title="The server alone")
    for figure in figures:
        limit = "" if figure.target is None else f"≤ {figure.target:g}"
        met = {None: "", True: "met", False: "missed"}[figure.met]
        table.add_row(figure.name, f"{figure.value:.3g}", figure.unit, limit, met)
    Console().print(table)
    if options.json:
        rows = [asdict(figure) | {"met": figure.met} for figure in figures]
        options.json.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
