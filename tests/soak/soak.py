"""A soak: clients of all kinds and dying workers on one service, then checks of its state.

Checked from outside: each accepted job ended once (by the log), each response was complete or
visibly aborted (by the clients), nothing has grown, and nothing is left over.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

from app.bench.load import Percentiles
from tests.soak.checks import (
    MAX_GROWTH,
    Footprint,
    Violation,
    check_exit,
    growth,
    leftovers,
    log_violations,
)
from tests.soak.client_pool import ClientPool
from tests.soak.clients import MAX_TEXT_LENGTH, MAX_UPLOAD_MB
from tests.support.service import Service, running_service

ENGINE = "tests.support.signal_engine:SignalEngine"
SETTINGS = {
    "WORKERS_PER_DEVICE": 2,
    "CONCURRENT_REQUESTS_PER_WORKER": 3,
    "MAX_QUEUED_REQUESTS": 16,
    "MAX_AHEAD_SECONDS": 2,
    "MAX_TEXT_LENGTH": MAX_TEXT_LENGTH,
    "MAX_UPLOAD_MB": MAX_UPLOAD_MB,
    "CUDA_VISIBLE_DEVICES": "",
}
"""Room for six jobs, and a short queue."""

WARM_UP_S = 15.0
WARM_UP_SHARE = 0.25
IDLE_WITHIN_S = 20.0
POLL_S = 0.5
MAX_POLLS = 20
MIN_REQUESTS_PER_MINUTE = 1000
MIN_KILLS_PER_MINUTE = 5
MAX_SHOWN = 20


@dataclass
class Report:
    """One line of figures, then one for each violation."""

    seconds: float
    outcomes: Counter[str] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    kills: int = 0
    retries: int = 0
    footprints: list[Footprint] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        ended = ", ".join(f"{count} {outcome}" for outcome, count in self.outcomes.most_common())
        figures = [
            f"soak of {self.seconds:g} s: {self.outcomes.total()} requests ({ended})",
            f"{self.kills} workers killed",
            f"{self.retries} jobs retried",
        ]
        if latency := Percentiles.of(self.latencies_s):
            figures.append(f"short answers p50 {latency.p50:.0f} ms p99 {latency.p99:.0f} ms")
        if len(self.footprints) == 2:
            for name, before, after in zip(MAX_GROWTH, *self.footprints, strict=True):
                figures.append(f"{name} {before:.4g} → {after:.4g}")
        yield ", ".join([*figures, f"{len(self.violations)} violations"])
        yield from self.violations[:MAX_SHOWN]
        if len(self.violations) > MAX_SHOWN:
            yield f"… and {len(self.violations) - MAX_SHOWN} more"


async def soak(seconds: float, seed: int, folder: Path) -> Report:
    """Run for `seconds`, with a warm-up whose footprint is the baseline; `folder` is empty."""
    report = Report(seconds)
    temp_dir = folder / "tmp"
    temp_dir.mkdir()
    with running_service(folder, MODEL=ENGINE, TMPDIR=temp_dir, **SETTINGS) as service:
        pool = ClientPool(service, seed)
        try:
            await _run(service, temp_dir, pool, report)
        except Violation as violation:
            report.violations.append(str(violation))
        log = service.log()
    report.outcomes = Counter(pool.outcomes.values())
    report.latencies_s = pool.latencies_s
    report.kills = len(pool.kills)
    report.retries = log.count(" requeued: ")
    report.violations += pool.violations
    report.violations += log_violations(log, pool.outcomes, report.kills)
    report.violations += _shortfall(report)
    return report


async def _run(service: Service, temp_dir: Path, pool: ClientPool, report: Report) -> None:
    """Warm up, soak, wait, check, stop. Raises `Violation` if it cannot go on."""
    warm_up_s = min(WARM_UP_S, WARM_UP_SHARE * report.seconds)
    for seconds in (warm_up_s, report.seconds - warm_up_s):
        await pool.run(seconds)
        await _wait_idle(service)
        await pool.check_recovered()
        report.footprints.append(await _stable_footprint(service, temp_dir))
    report.violations += growth(*report.footprints)
    report.violations += leftovers(service, pool.uploaded(), pool.processes)
    report.violations += check_exit(service, temp_dir)


async def _wait_idle(service: Service) -> None:
    try:
        await service.until(service.is_idle, IDLE_WITHIN_S)
    except AssertionError:
        raise Violation(f"after {IDLE_WITHIN_S:g} s, the service is still not idle") from None


async def _stable_footprint(service: Service, temp_dir: Path) -> Footprint:
    """Wait until the counts stay the same between two polls."""
    last = Footprint.of(service, temp_dir)
    for _ in range(MAX_POLLS):
        await asyncio.sleep(POLL_S)
        before, last = last, Footprint.of(service, temp_dir)
        if before[1:] == last[1:]:
            break
    return last


def _shortfall(report: Report) -> Iterator[str]:
    """Report a soak that was too small to show anything."""
    for name, count, per_minute in (
        ("requests", report.outcomes.total(), MIN_REQUESTS_PER_MINUTE),
        ("kills", report.kills, MIN_KILLS_PER_MINUTE),
    ):
        if count < (minimum := ceil(per_minute * report.seconds / 60)):
            yield f"{count} {name}, where {minimum} are due"
