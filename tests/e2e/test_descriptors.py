"""Resources that a long-running service could leak: descriptors and memory."""

import asyncio
import os
import random
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

import httpx
import psutil
import pytest

from app.server.sockets import RESERVED_SHARE
from tests.support.http_client import (
    check_speaks,
    connections,
    fetch,
    get,
    read_response,
    speech,
    speech_in_json,
    upload,
)
from tests.support.media import audio_file, tone
from tests.support.service import Service

pytestmark = pytest.mark.timed

MB = 1_048_576
MOST_DESCRIPTORS_MORE = 2
VOICE = audio_file(tone(1.1, 16_000), rate=16_000)


# --- descriptors and memory -----------------------------------------------------------------------

TEXT = "audio5 sleep0.01 audio5"
REQUESTS: list[tuple[int, bytes]] = [
    *((200, speech(TEXT, format=name)) for name in ("wav", "mp3", "fmp4", "raw_pcm", "webm")),
    *((200, speech(TEXT, format=name, stream="false")) for name in ("wav", "mp3", "fmp4")),
    (200, speech(TEXT, voice_id="v.wav")),
    (200, speech_in_json(TEXT)),
    (200, get("/voices")),
    (200, get("/system-status")),
    (200, get("/health")),
    (200, get("/openapi.json")),
    (404, speech(TEXT, voice_id="no.wav")),
    (400, speech("")),
    (500, speech("raise")),
    (409, upload(VOICE, "v.wav")),
    (404, get("/nowhere")),
]
MIX = [*REQUESTS * 5, (422, upload(b"no audio", "w.wav"))]  # what takes a process is rare


@pytest.mark.fault(53)
async def test_thousand_requests_with_aborts_leak_nothing(
    start: Callable[..., Service],
) -> None:
    service = start(CONCURRENT_REQUESTS_PER_WORKER=4, WORKERS_PER_DEVICE=2)
    service.wait_until(service.all_ready)
    assert (await fetch(service, upload(VOICE, "v.wav"))).status == 201
    master = psutil.Process(service.process.pid)
    chance, at_once = random.Random(53), asyncio.Semaphore(20)

    async def visit(expected: int, request: bytes, patience_s: float | None) -> bool:
        """Whether the visitor has stayed."""
        async with at_once, connections(service, [request]) as [reader]:
            try:
                came = await asyncio.wait_for(read_response(reader), patience_s)
            except TimeoutError:
                return False
            assert came.status == expected
            assert came.complete
            return True

    async def mixed(count: int) -> tuple[int, int, int]:
        """How many have left; then descriptors, and memory in bytes."""
        visits = []
        for _ in range(count):
            patience_s = chance.uniform(0, 0.01) if chance.random() < 0.4 else None
            visits.append(visit(*chance.choice(MIX), patience_s))
        stayed = await asyncio.gather(*visits)
        await service.until(lambda: service.busy() == 0)
        await service.until(lambda: not service.connections())
        await service.until(lambda: len(master.children()) == 2)  # nothing is being decoded
        return stayed.count(False), master.num_fds(), master.memory_info().rss

    _, descriptors, memory = await mixed(400)
    left, descriptors_after, memory_after = await mixed(1000)
    print(f"{left} left, {(memory_after - memory) / MB:.1f} MB")
    assert left >= 300
    assert abs(descriptors_after - descriptors) <= MOST_DESCRIPTORS_MORE
    assert memory_after - memory < 10 * MB


# --- no descriptor is left ------------------------------------------------------------------------


@contextmanager
def connections_left(service: Service, count: int) -> Iterator[None]:
    """Leave the master descriptors for `count` more connections, besides those it reserves."""
    pid = service.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir(f"/proc/{pid}/fd")) + 1
    limit = (used + count) * RESERVED_SHARE // (RESERVED_SHARE - 1)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@pytest.mark.fault(54)
async def test_service_survives_running_out_of_descriptors(
    start: Callable[..., Service],
) -> None:
    service = start(WORKERS_PER_DEVICE=2)
    service.wait_until(service.all_ready)
    master, killed = psutil.Process(service.process.pid), service.worker_pids()[0]
    with service.client() as earlier:
        assert earlier.get("/health").status_code == 200
        log_before = len(service.log())
        with connections_left(service, 20):
            async with connections(service, [b""] * 60):
                await service.until(lambda: "connections must wait" in service.log())
                began, cpu_began = monotonic(), cpu_seconds(master)
                os.kill(killed, signal.SIGKILL)
                await service.until(lambda: is_replaced(earlier, killed))
                await asyncio.sleep(max(0, began + 2 - monotonic()))  # the time of a measurement
                used = (cpu_seconds(master) - cpu_began) / (monotonic() - began)
                for _ in range(2):
                    spoken = earlier.get("/tts/generate", params={"text": "audio1"})
                    assert spoken.status_code == 200
    said = service.log()[log_before:].splitlines()
    print(f"{used:.1%} of a core, {len(said)} lines")
    assert used < 0.5
    assert len(said) < 20
    assert service.process.poll() is None
    async with asyncio.timeout(5):
        await check_speaks(service)


def is_replaced(client: httpx.Client, killed: int) -> bool:
    workers = client.get("/system-status").json()["workers"]
    return all(each["state"] == "ready" and each["pid"] != killed for each in workers)


def cpu_seconds(process: psutil.Process) -> float:
    return sum(process.cpu_times()[:2])
