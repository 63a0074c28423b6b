"""Put a `Workload` of concurrent clients on a running service and measure a `LoadResult`.

Called by `chatterbox-tts bench serve --url`. The clients run in this process; the service's CPU
time is measured if it runs on this machine.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count
from time import monotonic
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpx
import numpy as np
import psutil

from app.audio.formats import FORMAT_OF_NAME
from app.bench.client import HEADER_BYTES, ClientResult, SpeechClient, parse_error
from app.core.errors import InvalidRequest, ServerFault, Unauthenticated

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
STATUS_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Workload:
    """Requests with the same `params`, by `concurrency` clients.

    New requests are made until `requests` were made or `seconds` have passed. With `paced`, a
    client plays its audio to the end before its next request. The clients start over `ramp_s`.
    """

    params: dict[str, Any]
    concurrency: int = 1
    requests: int | None = None
    seconds: float | None = None
    paced: bool = False
    ramp_s: float = 0.0


@dataclass(frozen=True)
class Percentiles:
    """Values that 50, 95 and 99% of the values do not exceed; times are in ms."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: Iterable[float | None], scale: float = 1000) -> "Percentiles | None":
        """Leave out None, multiply by `scale`; return None if nothing is left."""
        values = [scale * value for value in seconds if value is not None]
        if not values:
            return None
        return cls(*np.percentile(values, (50, 95, 99), method="higher").tolist())


@dataclass(frozen=True)
class LoadResult:
    """The figures of a workload; the field names are those of the JSON file.

    Times are those of complete responses, CPU times are in seconds. `real_time_factor`: the time of
    a response for a second of its audio. `messages`: the first error message of each outcome.
    `underruns` are gaps in the playout, `underrun_s` their total length.
    """

    seconds: float
    outcomes: dict[str, int]
    messages: dict[str, str]
    audio_s: float
    first_byte_ms: Percentiles | None
    first_audible_ms: Percentiles | None
    total_ms: Percentiles | None
    real_time_factor: Percentiles | None
    lateness_ms: Percentiles | None
    underruns: int
    underrun_s: float
    cpu_s: dict[str, float]

    @classmethod
    def of(
        cls, results: list[ClientResult], seconds: float, cpu_s: dict[str, float]
    ) -> "LoadResult":
        complete = [each for each in results if each.succeeded]
        gaps = [gap for each in results for gap in each.playout.gaps_s]
        return cls(
            seconds=seconds,
            outcomes=dict(Counter(each.outcome for each in results).most_common()),
            messages={each.outcome: each.message for each in reversed(results) if each.message},
            audio_s=sum(each.audio_s for each in results),
            first_byte_ms=Percentiles.of(each.first_byte_s for each in complete),
            first_audible_ms=Percentiles.of(each.first_audible_s for each in complete),
            total_ms=Percentiles.of(each.total_s for each in complete),
            real_time_factor=Percentiles.of(
                (each.total_s / each.audio_s for each in complete if each.audio_s), scale=1
            ),
            lateness_ms=Percentiles.of(s for each in results for s in each.playout.lateness_s),
            underruns=len(gaps),
            underrun_s=sum(gaps),
            cpu_s=cpu_s,
        )

    @property
    def succeeded(self) -> int:
        return self.outcomes.get("200", 0)

    @property
    def requests(self) -> int:
        return sum(self.outcomes.values())

    @property
    def per_second(self) -> float:
        return self.succeeded / self.seconds

    def cpu_ms(self, process: str) -> float:
        """Return the CPU time of "master" or "workers" for a request."""
        return 1000 * self.cpu_s[process] / max(1, self.requests)

    def as_dict(self) -> dict[str, Any]:
        """Return all fields for JSON."""
        return asdict(self) | {"requests": self.requests, "requests_per_s": self.per_second}

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield names and values for a table."""
        ended = ", ".join(f"{count} {outcome}" for outcome, count in self.outcomes.items())
        yield "requests", f"{self.requests} in {self.seconds:.2f} s ({ended})"
        yield "whole answers", f"{self.per_second:.1f} a second"
        for name, ms in (
            ("first byte", self.first_byte_ms),
            ("first audible sample", self.first_audible_ms),
            ("whole answer", self.total_ms),
            ("lateness of a piece", self.lateness_ms),
        ):
            if ms:
                yield name, f"p50 {ms.p50:.1f}  p95 {ms.p95:.1f}  p99 {ms.p99:.1f} ms"
        if factor := self.real_time_factor:
            yield "real-time factor", f"p50 {factor.p50:.3g}  p95 {factor.p95:.3g}"
        if self.audio_s:
            yield "audio", f"{self.audio_s:.1f} s, {self.audio_s / self.seconds:.1f}× real time"
            yield "underruns", f"{self.underruns}, {self.underrun_s:.3f} s in all"
        for name, cpu_s in self.cpu_s.items():
            share = 100 * cpu_s / self.seconds
            yield f"CPU of {name}", f"{share:.1f}% of a core, {self.cpu_ms(name):.3f} ms a request"


class Target:
    """A service under load; `processes` are those whose CPU time is measured, by name."""

    def __init__(self, url: str, key: str, processes: dict[str, list[psutil.Process]]) -> None:
        self._url = _split(url)
        self._key = key
        self._processes = processes

    @classmethod
    def at(cls, url: str, key: str) -> "Target":
        """Find the service at `url`.

        Raises `InvalidRequest` for no URL, `ServerFault` if there is no response, and
        `Unauthenticated` for a wrong key.
        """
        target = cls(url, key, {})
        status_url, headers = f"{url.rstrip('/')}/system-status", {"X-API-Key": key}
        try:
            response = httpx.get(status_url, headers=headers, timeout=STATUS_TIMEOUT_S)
        except httpx.HTTPError as fault:
            raise ServerFault(f"nothing answers at {url}: {fault}") from None
        if response.status_code == Unauthenticated.status:
            _, message = parse_error(response.status_code, response.content)
            raise Unauthenticated(
                f"{url} says: {message or '401'} Here, --key or API_KEY gives it."
            )
        if target._url.hostname in LOCAL_HOSTS and response.is_success:
            target._processes = _processes(worker["pid"] for worker in response.json()["workers"])
        return target

    async def run(self, workload: Workload) -> LoadResult:
        """Run the workload to its end."""
        request = self._request(workload.params)
        tickets = count() if workload.requests is None else iter(range(workload.requests))
        results: list[ClientResult] = []

        def another() -> bool:
            if workload.seconds is not None and not monotonic() - began <= workload.seconds:
                return False  # also for NaN
            return next(tickets, None) is not None

        async def run_client(number: int) -> None:
            await asyncio.sleep(number * workload.ramp_s / workload.concurrency)
            client = SpeechClient(self._url, workload.params["format"], paced=workload.paced)
            try:
                while another():
                    results.append(await client.request(request))
            finally:
                client.close()

        before = self._cpu_s()
        began = monotonic()
        async with asyncio.TaskGroup() as clients:
            for number in range(workload.concurrency):
                clients.create_task(run_client(number))
        seconds = monotonic() - began
        cpu_s = {name: after - before[name] for name, after in self._cpu_s().items()}
        return LoadResult.of(results, seconds, cpu_s)

    def _request(self, params: dict[str, Any]) -> bytes:
        body = json.dumps(params).encode()
        host = self._url.netloc.rpartition("@")[2]
        path = f"{self._url.path.rstrip('/')}/tts/generate"
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def _cpu_s(self) -> dict[str, float]:
        return {name: sum(map(_cpu_s, group)) for name, group in self._processes.items()}


def check_format(form: str, *, paced: bool) -> None:
    """Raise `InvalidRequest` for an unknown format, or one that a paced client cannot play."""
    if form not in FORMAT_OF_NAME:
        raise InvalidRequest(f"There is no format {form!r}; there are {', '.join(FORMAT_OF_NAME)}.")
    if paced and form not in HEADER_BYTES:
        raise InvalidRequest(f"--paced hears {' and '.join(HEADER_BYTES)}, not {form}.")


def _split(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidRequest(f"{url!r} is no URL of a service: http://host:port")
    return parts


def _processes(worker_pids: Iterable[int | None]) -> dict[str, list[psutil.Process]]:
    """Find the service's processes; empty if it runs elsewhere, such as in a container."""
    workers = []
    for pid in worker_pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid) if pid else None
            if process and "app.worker" in process.cmdline():
                workers.append(process)
    masters = {parent for worker in workers if (parent := worker.parent())}
    return {"master": list(masters), "workers": workers} if workers else {}


def _cpu_s(process: psutil.Process) -> float:
    """Return user and system time; 0 if the process has ended."""
    with suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0
