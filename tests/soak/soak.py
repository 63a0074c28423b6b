"""A soak: clients of all kinds and dying workers on one service, then checks of its state.

Checked from outside: each accepted job ended once (by the log), each response was complete or
visibly aborted (by the clients), nothing has grown, and nothing is left over.
"""

import asyncio
from collections.abc import Iterator
from math import ceil
from pathlib import Path

from tests.soak import log_checks
from tests.soak.client_pool import ClientPool
from tests.soak.invalid_requests import MAX_TEXT_LENGTH, MAX_UPLOAD_MB
from tests.soak.leak_checks import check_exit, growth, leftovers, stable_footprint
from tests.soak.report import Report
from tests.soak.response_checks import Violation
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

MIN_REQUESTS_PER_MINUTE = 1000
MIN_KILLS_PER_MINUTE = 5


async def soak(seconds: float, seed: int, folder: Path) -> Report:
    """Run for `seconds`, with a warm-up whose footprint is the baseline; `folder` is empty."""
    report = Report(seconds)
    temp_dir = folder / "tmp"
    temp_dir.mkdir()
    with running_service(folder, MODEL=ENGINE, TMPDIR=temp_dir, **SETTINGS) as service:
        pool = ClientPool(service, seed, report)
        try:
            await _run(service, temp_dir, pool, report)
        except Violation as violation:
            report.violations.append(str(violation))
        log = service.log()
    report.kills, report.retries = len(pool.kills), log_checks.retries(log)
    report.violations += log_checks.violations(log, pool.outcomes, report.kills)
    report.violations += _shortfall(report)
    return report


async def _run(service: Service, temp_dir: Path, pool: ClientPool, report: Report) -> None:
    """Warm up, soak, wait, check, stop. Raises `Violation` if it cannot go on."""
    warm_up_s = min(WARM_UP_S, WARM_UP_SHARE * report.seconds)
    await pool.run(warm_up_s)
    await _wait_idle(service)
    report.before = await stable_footprint(service, temp_dir)
    await pool.run(report.seconds - warm_up_s)
    await _wait_idle(service)
    await pool.check_recovered()
    report.after = await stable_footprint(service, temp_dir)
    report.violations += growth(report.before, report.after)
    report.violations += await asyncio.to_thread(
        leftovers, service, temp_dir, pool.voices, pool.processes
    )
    report.violations += await asyncio.to_thread(check_exit, service, temp_dir)


async def _wait_idle(service: Service) -> None:
    try:
        await service.until(service.is_idle, IDLE_WITHIN_S)
    except AssertionError:
        raise Violation(f"after {IDLE_WITHIN_S:g} s, the service is still not idle") from None


def _shortfall(report: Report) -> Iterator[str]:
    """Report a soak that was too small to show anything."""
    for name, count, per_minute in (
        ("requests", report.requests, MIN_REQUESTS_PER_MINUTE),
        ("kills", report.kills, MIN_KILLS_PER_MINUTE),
    ):
        if count < (minimum := ceil(per_minute * report.seconds / 60)):
            yield f"{count} {name}, where {minimum} are due"
