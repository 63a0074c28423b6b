"""A stranger: a process that attacks a service without its key, in all ways at once.

Meanwhile and afterwards the service's owner measures what others notice: the latency of `/health`,
the stream of a listener with the key, and the master's memory. The number of attacks at a time is
bounded, as a proxy or `MAX_CONNECTIONS_PER_ADDRESS` would do.
"""

import asyncio
import json
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from time import monotonic

from app.bench.load import Percentiles
from app.core.audio import BYTES_PER_SAMPLE, SAMPLE_RATE
from tests.support.http_client import fetch, get, speech_params
from tests.support.service import ROOT, Service, running_service

MAX_HEALTH_P99_MS = 50
MAX_HEALTH_MS = 500
MAX_GROWTH_MB = 50
LEVEL_MB = 20
LEVEL_WITHIN_S = 60
PROBE_EVERY_S = 0.02
WARM_UP_S = 5
PLAYER_BUFFER_S = 0.5
SPEECH = "audio5 sleep0.16 " * 300
"""Words of 0.2 s of audio, one every 0.16 s, for a minute."""

# --- the stranger ---------------------------------------------------------------------------------

ATTACK_S = 40
"""Longer than the service waits for a client that reads nothing."""

PAUSE_S = 0.5
"""On average, between two attacks."""

GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
PIECE = 65_536


class Connection:
    """Reads nothing ahead; small packets leave little room in the kernel's buffers."""

    async def open(self, port: int) -> "Connection":
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket()
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        await self._loop.sock_connect(self._socket, ("127.0.0.1", port))
        return self

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._socket, data)

    async def read(self) -> bytes:
        return await self._loop.sock_recv(self._socket, PIECE)

    def close(self) -> None:
        self._socket.close()


async def pipeline(connection: Connection) -> None:
    await connection.send((GET + b"\r\n") * 10_000)
    await asyncio.sleep(ATTACK_S)


async def trailer(connection: Connection) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: "
    await connection.send(head)
    while True:
        await connection.send(b"a" * PIECE)


async def slow_writer(connection: Connection) -> None:
    for byte in GET * 10:
        await connection.send(bytes([byte]))
        await asyncio.sleep(0.3)


async def non_reader(connection: Connection) -> None:
    await connection.send(GET.replace(b"/", b"/web/swagger-ui-bundle.js", 1) + b"\r\n")
    await asyncio.sleep(ATTACK_S)


async def headers(connection: Connection) -> None:
    await connection.send(GET + b"X:\r\n" * 50_000)
    while await connection.read():
        pass


async def guesses(connection: Connection) -> None:
    """Try keys on a path that the log shortens."""
    path = b"/" + b"%1b" * 300
    for number in count():
        await connection.send(GET.replace(b"/", path, 1) + b"X-API-Key: %d\r\n\r\n" % number)
        if not await connection.read():
            return


ATTACKS: dict[Callable[[Connection], Awaitable[None]], int] = {
    pipeline: 10,
    trailer: 10,
    slow_writer: 20,
    non_reader: 60,
    headers: 10,
    guesses: 10,
}
"""The number of each at a time."""


async def attack(port: int, seconds: float) -> Counter[str]:
    """Attack for `seconds`; return the number of attacks by kind."""
    made = Counter[str]()
    until, random = monotonic() + seconds, Random(0)

    async def repeat(kind: Callable[[Connection], Awaitable[None]]) -> None:
        while (left_s := until - monotonic()) > 0:
            made[kind.__name__] += 1
            with suppress(OSError, TimeoutError):
                connection = await Connection().open(port)
                try:
                    async with asyncio.timeout(min(ATTACK_S, left_s)):
                        await kind(connection)
                finally:
                    connection.close()
            await asyncio.sleep(random.uniform(0, 2 * PAUSE_S))

    async with asyncio.TaskGroup() as attacks:
        for kind, number in ATTACKS.items():
            for _ in range(number):
                attacks.create_task(repeat(kind))
    return made


# --- what others notice ---------------------------------------------------------------------------


@dataclass
class Report:
    """`memory_mb`: before, at most, and afterwards. `gaps_s`: of the listener's stream."""

    seconds: float
    attacks: dict[str, int] = field(default_factory=dict)
    health_s: list[float] = field(default_factory=list)
    heard_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        attacks = ", ".join(f"{number} {kind}" for kind, number in self.attacks.items())
        health = Percentiles.of(self.health_s)
        worst_ms = 1000 * max(self.health_s)
        assert health
        self.violations += [
            f"{name}: {value:.0f} in place of at most {limit}"
            for name, value, limit in (
                ("ms of /health, p99", health.p99, MAX_HEALTH_P99_MS),
                ("ms of /health, worst", worst_ms, MAX_HEALTH_MS),
                ("more MB of memory", self.memory_mb[1] - self.memory_mb[0], MAX_GROWTH_MB),
                ("more MB a minute later", self.memory_mb[2] - self.memory_mb[0], LEVEL_MB),
                ("gaps in the stream", len(self.gaps_s), 0),
            )
            if value > limit
        ]
        yield (
            f"stranger of {self.seconds:g} s: {attacks}, /health p50 {health.p50:.1f} ms "
            f"p99 {health.p99:.1f} ms worst {worst_ms:.0f} ms, {len(self.gaps_s)} gaps in "
            f"{self.heard_s:.0f} s of speech, MB of memory {self.memory_mb[0]:.0f} → at most "
            f"{self.memory_mb[1]:.0f} → {self.memory_mb[2]:.0f}, "
            f"{len(self.violations)} violations"
        )
        yield from self.violations


async def stranger(seconds: float, folder: Path) -> Report:
    """Let a stranger attack a new service for `seconds`."""
    report = Report(seconds)
    with running_service(folder) as service:
        await _listen(service, Report(0), text="audio5 " * 100)
        await _attack_from_outside(service, min(WARM_UP_S, seconds))
        before_mb = _memory_mb(service)
        report.memory_mb = [before_mb, before_mb]
        measuring = [
            asyncio.create_task(_probe(service, report)),
            asyncio.create_task(_listen_on(service, report)),
        ]
        report.attacks = await _attack_from_outside(service, seconds)
        for task in measuring:
            task.cancel()
        await asyncio.wait(measuring)
        for task in measuring:
            if not task.cancelled():
                report.violations.append(f"{task.exception()!r}")
        with suppress(AssertionError):
            level_mb = before_mb + LEVEL_MB
            await service.until(lambda: _memory_mb(service) < level_mb, LEVEL_WITHIN_S)
        report.memory_mb.append(_memory_mb(service))
        if "Traceback" in service.log():
            report.violations.append("the log has a traceback")
    return report


def _memory_mb(service: Service) -> float:
    return service.master.memory_info().rss / 1e6


async def _attack_from_outside(service: Service, seconds: float) -> dict[str, int]:
    """Run the stranger as a process of its own, so that its load does not delay the measuring."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__, str(service.port), str(seconds)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    attacks: dict[str, int] = json.loads(output)
    return attacks


async def _probe(service: Service, report: Report) -> None:
    while True:
        began = monotonic()
        answer = await fetch(service, get("/health"))
        report.health_s.append(monotonic() - began)
        report.memory_mb[1] = max(report.memory_mb[1], _memory_mb(service))
        if answer.status != 200:
            report.violations.append(f"/health answered {answer.status}")
        await asyncio.sleep(PROBE_EVERY_S)


async def _listen_on(service: Service, report: Report) -> None:
    while True:
        await _listen(service, report, SPEECH)


async def _listen(service: Service, report: Report, text: str) -> None:
    """Play a stream as a player does that starts with `PLAYER_BUFFER_S` of audio."""
    params, ends_at = speech_params(text), 0.0
    async with (
        service.async_client() as client,
        client.stream("POST", "/tts/generate", json=params) as answer,
    ):
        answer.raise_for_status()
        async for piece in answer.aiter_raw():
            now = monotonic()
            if not ends_at:
                ends_at = now + PLAYER_BUFFER_S
            elif now > ends_at:
                report.gaps_s.append(now - ends_at)
                ends_at = now
            piece_s = len(piece) / BYTES_PER_SAMPLE / SAMPLE_RATE
            ends_at += piece_s
            report.heard_s += piece_s


if __name__ == "__main__":
    port, seconds = sys.argv[1:]
    print(json.dumps(asyncio.run(attack(int(port), float(seconds)))))
