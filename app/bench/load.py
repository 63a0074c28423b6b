"""A load: so many listeners at once on a running service, each with one request after the other.

Called by `chatterbox-tts bench serve --url` and by `bench.alone`. The clients are in this process;
the service's own CPU time is known where it runs on this machine.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpx
import psutil

from app.audio.formats import ENCODERS
from app.bench.listener import HEADER_BYTES, Hearing, Listener, lateness_s, refusal, underruns_s
from app.bench.quantile import quantile
from app.core.errors import InvalidRequest, ServerFault, Unauthenticated

HERE = ("localhost", "127.0.0.1", "::1")
PARTS = (0.5, 0.95, 0.99)
ANSWER_S = 10.0


@dataclass(frozen=True)
class Load:
    """Ends after `requests`, or when after `seconds` the running ones are over.

    `paced`: each client hears its audio to the end before it asks again. The clients begin one
    after the other, over `ramp_s`. `asked`: the parameters of each request.
    """

    asked: dict[str, Any]
    concurrency: int = 1
    requests: int | None = None
    seconds: float | None = None
    paced: bool = False
    ramp_s: float = 0.0

    @property
    def form(self) -> str:
        return str(self.asked["format"])


@dataclass(frozen=True)
class Spread:
    """Of some figure, in ms."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: list[float]) -> "Spread | None":
        return cls(*(1000 * quantile(seconds, part) for part in PARTS)) if seconds else None


@dataclass(frozen=True)
class Result:
    """What a load came to. Times are those of whole answers; CPU times are in seconds.

    `messages`: the first that was told with each outcome. `underruns` are silences amid the audio,
    in which the player waited, `underrun_s` long in all.
    """

    seconds: float
    outcomes: dict[str, int]
    messages: dict[str, str]
    audio_s: float
    first_byte_ms: Spread | None
    first_audible_ms: Spread | None
    total_ms: Spread | None
    lateness_ms: Spread | None
    underruns: int
    underrun_s: float
    cpu_s: dict[str, float]

    @property
    def whole(self) -> int:
        return self.outcomes.get("200", 0)

    @property
    def requests(self) -> int:
        return sum(self.outcomes.values())

    @property
    def per_second(self) -> float:
        return self.whole / self.seconds

    def cpu_ms(self, of: str) -> float:
        """Per request."""
        return 1000 * self.cpu_s[of] / max(1, self.requests)

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"requests": self.requests, "requests_per_s": self.per_second}

    def rows(self) -> Iterator[tuple[str, str]]:
        """For people."""
        ended = ", ".join(f"{count} {outcome}" for outcome, count in self.outcomes.items())
        yield "requests", f"{self.requests} in {self.seconds:.2f} s ({ended})"
        yield "whole answers", f"{self.per_second:.1f} a second"
        for name, spread in (
            ("first byte", self.first_byte_ms),
            ("first audible sample", self.first_audible_ms),
            ("whole answer", self.total_ms),
            ("lateness of a piece", self.lateness_ms),
        ):
            if spread:
                three = f"p50 {spread.p50:.1f}  p95 {spread.p95:.1f}  p99 {spread.p99:.1f}"
                yield name, f"{three} ms"
        if self.audio_s:
            yield "audio", f"{self.audio_s:.1f} s, {self.audio_s / self.seconds:.1f}× real time"
            yield "underruns", f"{self.underruns}, {self.underrun_s:.3f} s in all"
        for name, cpu_s in self.cpu_s.items():
            share = 100 * cpu_s / self.seconds
            yield f"CPU of {name}", f"{share:.1f}% of a core, {self.cpu_ms(name):.3f} ms a request"


class Subject:
    """The service that bears a load. `processes` by name are those whose CPU time is told."""

    def __init__(self, url: str, key: str, processes: dict[str, list[psutil.Process]]) -> None:
        self.url = _split(url)
        self._key = key
        self._processes = processes

    @classmethod
    def at(cls, url: str, key: str) -> "Subject":
        """Raises `ServerFault` where nothing answers, `InvalidRequest` for no URL.

        And `Unauthenticated` for a wrong key.
        """
        where = _split(url)
        try:
            answer = httpx.get(
                f"{url.rstrip('/')}/system-status", headers={"X-API-Key": key}, timeout=ANSWER_S
            )
        except httpx.HTTPError as fault:
            raise ServerFault(f"nothing answers at {url}: {fault}") from None
        if answer.status_code == Unauthenticated.status:
            _, message = refusal(answer.status_code, answer.content)
            raise Unauthenticated(
                f"{url} says: {message or '401'} Here, --key or API_KEY gives it."
            )
        processes = {}
        if where.hostname in HERE and answer.is_success:
            processes = _processes(worker["pid"] for worker in answer.json()["workers"])
        return cls(url, key, processes)

    async def bear(self, load: Load) -> Result:
        """All of it."""
        request = self._request(load.asked)
        tickets = iter(range(load.requests)) if load.requests is not None else None
        began = monotonic()
        heard: list[Hearing] = []

        def another() -> bool:
            if load.seconds is not None and not monotonic() - began <= load.seconds:
                return False  # at once, for nan
            return tickets is None or next(tickets, None) is not None

        async def client(number: int) -> None:
            await asyncio.sleep(number * load.ramp_s / load.concurrency)
            listener = Listener(self.url, load.form, paced=load.paced)
            try:
                while another():
                    heard.append(await listener.hear(request))
            finally:
                listener.close()

        before = self._cpu_s()
        async with asyncio.TaskGroup() as clients:
            for number in range(load.concurrency):
                clients.create_task(client(number))
        seconds = monotonic() - began
        cpu_s = {name: after - before[name] for name, after in self._cpu_s().items()}
        return _result(heard, seconds, cpu_s)

    def _request(self, asked: dict[str, Any]) -> bytes:
        body = json.dumps(asked).encode()
        host = self.url.netloc.rpartition("@")[2]
        path = f"{self.url.path.rstrip('/')}/tts/generate"
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def _cpu_s(self) -> dict[str, float]:
        """User's and system's; a process that is gone has none."""
        return {name: sum(map(_cpu_s, group)) for name, group in self._processes.items()}


def _split(url: str) -> SplitResult:
    where = urlsplit(url)
    if where.scheme not in ("http", "https") or not where.hostname:
        raise InvalidRequest(f"{url!r} is no URL of a service: http://host:port")
    return where


def _processes(worker_pids: Iterable[int | None]) -> dict[str, list[psutil.Process]]:
    """None if these are no processes of this machine's: the service may be in a container."""
    workers = []
    for pid in worker_pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid) if pid else None
            if process and "app.worker" in process.cmdline():
                workers.append(process)
    masters = {parent for worker in workers if (parent := worker.parent())}
    return {"master": list(masters), "workers": workers} if workers else {}


def _cpu_s(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def _result(heard: list[Hearing], seconds: float, cpu_s: dict[str, float]) -> Result:
    whole = [each for each in heard if each.whole]
    silences = [gap for each in heard for gap in underruns_s(each.pieces)]
    return Result(
        seconds=seconds,
        outcomes=dict(Counter(each.outcome for each in heard).most_common()),
        messages={each.outcome: each.message for each in reversed(heard) if each.message},
        audio_s=sum(each.audio_s for each in heard),
        first_byte_ms=Spread.of([s for each in whole if (s := each.first_byte_s) is not None]),
        first_audible_ms=Spread.of(
            [s for each in whole if (s := each.first_audible_s) is not None]
        ),
        total_ms=Spread.of([each.total_s for each in whole]),
        lateness_ms=Spread.of([late for each in heard for late in lateness_s(each.pieces)]),
        underruns=len(silences),
        underrun_s=sum(silences),
        cpu_s=cpu_s,
    )


def check_format(form: str, *, paced: bool) -> None:
    """Raises `InvalidRequest` for one that there is not, or whose samples a paced load misses."""
    if form not in ENCODERS:
        raise InvalidRequest(f"There is no format {form!r}; there are {', '.join(ENCODERS)}.")
    if paced and form not in HEADER_BYTES:
        raise InvalidRequest(f"--paced hears {' and '.join(HEADER_BYTES)}, not {form}.")
