"""A soak: a service of its own, clients of all kinds, dying workers. Then, is everything in order?

Called by `chatterbox-tts bench serve --soak`. What can be seen from outside is checked: every
accepted job has ended once (the log says so), every answer was whole or visibly broken (the clients
say so), nothing has grown, nothing is left over.
"""

from collections.abc import Callable, Iterator
from math import ceil
from pathlib import Path

from app.bench.service import Service, Violation
from app.bench.soak import journal
from app.bench.soak.aftermath import departure, growth, leftovers, level_footprint
from app.bench.soak.crowd import Crowd
from app.bench.soak.nonsense import MAX_TEXT_LENGTH, MAX_UPLOAD_MB
from app.bench.soak.report import Report

ENGINE = "app.bench.engine:SignalEngine"
SETTINGS = {
    "WORKERS_PER_DEVICE": 2,
    "CONCURRENT_REQUESTS_PER_WORKER": 3,
    "MAX_QUEUED_REQUESTS": 16,
    "MAX_AHEAD_SECONDS": 2,
    "MAX_TEXT_LENGTH": MAX_TEXT_LENGTH,
    "MAX_UPLOAD_MB": MAX_UPLOAD_MB,
}
"""Room for six jobs, and little to wait."""

WARM_UP_S = 15.0
WARM_UP_SHARE = 0.25
CALM_S = 20.0

REQUESTS_PER_MINUTE = 1000
KILLS_PER_MINUTE = 5
"""A soak that came to less has shown nothing."""


async def soak(
    minutes: float, seed: int, folder: Path, on_progress: Callable[[float], None]
) -> Report:
    """`folder` is empty, and keeps the log. `on_progress` gets the seconds that are over.

    The time includes a warm-up: what the service takes up is compared with what it was then.
    """
    report = Report(60 * minutes)
    async with Service.running(folder, MODEL=ENGINE, **SETTINGS) as service:
        crowd = Crowd(service, seed, report)
        try:
            await _live(service, crowd, report, on_progress)
        except Violation as end:
            report.violations.append(str(end))
        log = service.log()
    report.kills, report.retries = len(crowd.kills), journal.retries(log)
    report.violations += journal.violations(log, crowd.outcomes, report.kills)
    report.violations += _shortfall(report, minutes)
    return report


async def _live(
    service: Service, crowd: Crowd, report: Report, on_progress: Callable[[float], None]
) -> None:
    """Warm up, be used and misused, calm down, leave. Raises `Violation` if it cannot go on."""
    warm_up_s = min(WARM_UP_S, WARM_UP_SHARE * report.seconds)
    await crowd.come(warm_up_s, on_progress)
    await _calm(service)
    report.before = await level_footprint(service)
    await crowd.come(report.seconds - warm_up_s, lambda over_s: on_progress(warm_up_s + over_s))
    await _calm(service)
    await crowd.find_it_well()
    report.after = await level_footprint(service)
    report.violations += growth(report.before, report.after)
    report.violations += await leftovers(service, crowd.voices, crowd.processes)
    report.violations += await departure(service)


async def _calm(service: Service) -> None:
    if not await service.until_calm(CALM_S):
        raise Violation(f"after {CALM_S:g} s, the service is still not calm")


def _shortfall(report: Report, minutes: float) -> Iterator[str]:
    for what, number, least in (
        ("requests", report.requests, REQUESTS_PER_MINUTE),
        ("kills", report.kills, KILLS_PER_MINUTE),
    ):
        if number < (due := ceil(least * minutes)):
            yield f"{number} {what}, where {due} are due"
