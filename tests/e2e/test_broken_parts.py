"""Faults inside the master that no client can cause: the responses, and recovery."""

import asyncio
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from time import monotonic

import httpx
import psutil
import pytest

from app.server.sockets import RESERVED_SHARE
from tests.support.engines import expected_pcm, voice_code
from tests.support.fault_injection import DISK_IS_FULL, ENCODER_ROOM
from tests.support.http_client import check_speaks, connections, fetch, speech, upload
from tests.support.media import audio_file, tone
from tests.support.service import Service, running_service

BROKEN = "tests.support.fault_injection"
RATE = 16_000
EXITS_WITHIN_S = 5
HEALED_WITHIN_S = 1
CONNECTIONS_LEFT = 20


def wav(seconds: float) -> bytes:
    return audio_file(tone(seconds, RATE), rate=RATE)


async def speech_in(service: Service, voice_id: str) -> bytes:
    return (await fetch(service, speech("audio3", voice_id=voice_id))).body


def speech_of(seconds: float) -> bytes:
    """Return the expected speech in the voice of `wav(seconds)`."""
    return expected_pcm("audio3", 7, voice_code(tone(seconds, RATE)))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose encoders and disk fail on demand."""
    folder = tmp_path_factory.mktemp("broken")
    with running_service(folder, (BROKEN, "full")) as service:
        yield service
        assert "Traceback" not in service.log()


# --- encoders -------------------------------------------------------------------------------------


ENCODED = ("mp3", "fmp4", "webm")
MANY_PIECES = "audio5 sleep0.02 " * 20


@pytest.mark.fault(55)
async def test_encoder_failure_is_an_error_or_aborts_the_stream(service: Service) -> None:
    room = service.folder / ENCODER_ROOM
    for room_bytes, name, stream in product((0, 4000), ENCODED, ("true", "false")):
        room.write_text(str(room_bytes))
        answer = await fetch(service, speech(MANY_PIECES, "it", format=name, stream=stream))
        if room_bytes and stream == "true":
            assert (answer.status, answer.complete) == (200, False)
            assert 0 < len(answer.body) <= room_bytes
        else:
            assert (answer.status, answer.complete) == (500, True)
            assert json.loads(answer.body)["error"]["code"] == "encoder_error"
        await service.until(lambda: service.busy() == 0)
    room.unlink()
    await check_speaks(service)
    assert service.log().count("it: response aborted: ") == len(ENCODED)
    with service.client() as client:
        counted = client.get("/metrics").text
    assert 'tts_jobs_total{outcome="encoder_error"} 12.0' in counted
    assert 'tts_jobs_total{outcome="cancelled"} 0.0' in counted
    assert "tts_http_requests_aborted_total{" not in counted


# --- circuits -------------------------------------------------------------------------------------


@pytest.mark.timed
@pytest.mark.fault(5, 16)
def test_open_circuits_refuse_requests_at_once(tmp_path: Path) -> None:
    service = Service(
        tmp_path, {"MODEL": "tests.support.engines:NoSuchEngine"}, (BROKEN, "circuit")
    )
    try:
        service.wait_until(lambda: "circuit open, one try a minute" in service.log(), 20)
        with service.client() as client:
            assert client.get("/health").status_code == 200
            assert client.get("/ready").status_code == 503
            began = monotonic()
            refused = client.post("/tts/generate", json={"text": "audio1"})
            assert monotonic() - began < 0.1
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "not_ready"
        assert int(refused.headers["Retry-After"]) > 0
        [worker] = service.workers()
        assert worker["state"] == "failed"
        assert "NoSuchEngine" in worker["last_error"]
        assert "Traceback" not in service.log()
    finally:
        service.stop()


# --- broadcasts -----------------------------------------------------------------------------------


@pytest.mark.timed
@pytest.mark.fault(58)
async def test_lost_broadcast_is_repaired_within_a_second(
    start: Callable[..., Service],
) -> None:
    service = start(entry=(BROKEN, "broadcast"))
    prepared_after = [await preparation(service, seconds) for seconds in (1.1, 1.2, 1.3, 1.4)]
    assert await speech_in(service, "v.wav") == speech_of(1.4)
    cancelled_after = [await cancellation(service, pause_s) for pause_s in (0, 0.4)]
    print(f"{max(prepared_after):.2f} s, {max(cancelled_after):.2f} s")
    assert max(cancelled_after) < HEALED_WITHIN_S
    assert max(prepared_after) < HEALED_WITHIN_S
    assert max(cancelled_after) > 0.1  # they were lost indeed
    assert max(prepared_after) > 0.1
    await check_speaks(service)
    began = monotonic()
    assert service.stop() == 0
    assert monotonic() - began < EXITS_WITHIN_S


async def preparation(service: Service, seconds: float) -> float:
    """Upload a voice that no job uses; return the seconds until the worker has prepared it."""
    before = service.log().count(" prepared after ")
    answer = await fetch(service, upload(wav(seconds), "v.wav", query="?replace=true"))
    assert answer.status == 201
    began = monotonic()
    await service.until(lambda: service.log().count(" prepared after ") > before)
    return monotonic() - began


async def cancellation(service: Service, pause_s: float) -> float:
    """Disconnect a client; return the seconds until its slot is free."""
    async with connections(service, [speech("audio1 sleep60")]) as [reader]:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(pause_s)
    began = monotonic()
    await service.until(lambda: service.busy() == 0)
    return monotonic() - began


# --- the disk -------------------------------------------------------------------------------------


@pytest.mark.fault(36)
async def test_full_disk_fails_only_the_upload(service: Service) -> None:
    """Test a full disk, then a limit on the file size."""
    assert (await fetch(service, upload(wav(1.1), "v.wav"))).status == 201
    full = service.folder / DISK_IS_FULL
    full.touch()
    await only_refuses(service, upload(wav(1.2), "v.wav", query="?replace=true"), 507)
    full.unlink()
    with limited(service, resource.RLIMIT_FSIZE, 100_000):
        await only_refuses(service, upload(wav(5), "v.wav", query="?replace=true"), 503)
    answer = await fetch(service, upload(wav(1.2), "v.wav", query="?replace=true"))
    assert answer.status == 201
    assert await speech_in(service, "v.wav") == speech_of(1.2)


async def only_refuses(service: Service, request: bytes, status: int) -> None:
    """Check that only the upload is refused: the existing voice is unchanged and speaks."""
    assert (await fetch(service, request)).status == status
    [voice] = service.voices_dir.iterdir()
    assert (voice.name, voice.read_bytes()) == ("v.wav", wav(1.1))
    assert await speech_in(service, "v.wav") == speech_of(1.1)
    await check_speaks(service)


@contextmanager
def limited(service: Service, resource_: int, most: int) -> Iterator[None]:
    """Limit a resource of the master inside."""
    pid = service.process.pid
    before = resource.prlimit(pid, resource_)
    resource.prlimit(pid, resource_, (most, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource_, before)


# --- no descriptor is left ------------------------------------------------------------------------


@pytest.mark.timed
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
        used = max(int(name) for name in os.listdir(f"/proc/{service.process.pid}/fd")) + 1
        limit = (used + CONNECTIONS_LEFT) * RESERVED_SHARE // (RESERVED_SHARE - 1)
        with limited(service, resource.RLIMIT_NOFILE, limit):
            async with connections(service, [b""] * 60):
                await service.until(lambda: "connections must wait" in service.log())
                began, cpu_began = monotonic(), cpu_seconds(master)
                os.kill(killed, signal.SIGKILL)
                await service.until(lambda: is_replaced(earlier, killed))
                await asyncio.sleep(max(0, began + 2 - monotonic()))  # the time of a measurement
                load = (cpu_seconds(master) - cpu_began) / (monotonic() - began)
                for _ in range(2):
                    spoken = earlier.get("/tts/generate", params={"text": "audio1"})
                    assert spoken.status_code == 200
    lines = service.log()[log_before:].splitlines()
    print(f"{load:.1%} of a core, {len(lines)} lines")
    assert load < 0.5
    assert len(lines) < 20
    assert service.process.poll() is None
    async with asyncio.timeout(5):
        await check_speaks(service)


def is_replaced(client: httpx.Client, killed: int) -> bool:
    workers = client.get("/system-status").json()["workers"]
    return all(each["state"] == "ready" and each["pid"] != killed for each in workers)


def cpu_seconds(process: psutil.Process) -> float:
    return sum(process.cpu_times()[:2])
