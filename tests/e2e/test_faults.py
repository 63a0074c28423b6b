"""Workers that die, hang or fail: detection, responses and recovery."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import httpx
import psutil
import pytest

from tests.support.engines import expected_pcm
from tests.support.http_client import error_code, speech_params
from tests.support.service import ROOT, Service, running_service

ROUTE = "/tts/generate"
STALL_S = 3
SLOW = "audio10 " + "sleep0.1 audio1 " * 30
WORKERS = 2
MAX_DESCRIPTORS_MORE = 2


@pytest.fixture(scope="module")
def _service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("faults"), WORKERS_PER_DEVICE=WORKERS) as service:
        wait_recovered(service)
        yield service


@pytest.fixture
def service(_service: Service) -> Iterator[Service]:
    """Two workers, which must recover after each test."""
    yield _service
    wait_recovered(_service)


def wait_recovered(service: Service) -> None:
    """Wait until all workers are ready and have finished a job, which resets their death counts."""
    service.wait_until(service.all_ready, 20)
    with service.client() as client:
        for _ in service.worker_pids():
            check_speaks(client)
    service.wait_until(lambda: service.busy() == 0)
    assert service.status()["queue"]["waiting"] == 0


def check_speaks(client: httpx.Client) -> None:
    assert client.post(ROUTE, json=speech_params("audio3")).content == expected_pcm("audio3", 7)


async def speak(client: httpx.AsyncClient, text: str) -> httpx.Response:
    return await client.post(ROUTE, json=speech_params(text))


class Speech:
    """A stream that has begun on the worker `pid`."""

    def __init__(self, pid: int, audio: AsyncIterator[bytes], first: bytes) -> None:
        self.pid = pid
        self._audio = audio
        self._first = first

    async def rest(self) -> bytes:
        return self._first + b"".join([piece async for piece in self._audio])

    async def aborts(self) -> None:
        """Assert that the stream ends without a complete response."""
        with pytest.raises(httpx.RemoteProtocolError):
            await self.rest()


@asynccontextmanager
async def speech(
    service: Service, client: httpx.AsyncClient, text: str = SLOW
) -> AsyncIterator[Speech]:
    before = service.busy_pids()
    async with client.stream("POST", ROUTE, json=speech_params(text)) as answer:
        audio = answer.aiter_raw()
        first = await anext(audio)
        [pid] = service.busy_pids() - before
        yield Speech(pid, audio, first)


# --- kill -9 --------------------------------------------------------------------------------------


@pytest.mark.timed
@pytest.mark.fault(3)
async def test_worker_killed_during_stream_aborts_only_that_stream(service: Service) -> None:
    async with (
        service.async_client() as client,
        speech(service, client) as failing,
        speech(service, client) as other,
    ):
        waiting = asyncio.create_task(speak(client, "audio2"))
        await service.until(lambda: service.status()["queue"]["waiting"] == 1)
        os.kill(failing.pid, signal.SIGKILL)
        async with asyncio.timeout(2):
            await failing.aborts()
        assert (await speak(client, "audio3")).content == expected_pcm("audio3", 7)
        assert (await waiting).content == expected_pcm("audio2", 7)
        assert await other.rest() == expected_pcm(SLOW, 7)


@pytest.mark.fault(2)
@pytest.mark.parametrize(
    ("text", "options"),
    [
        # more audio than the credit, so some of it was consumed before the worker dies
        ("audio100 " * 30 + "hold1 audio30", {"format": "wav", "stream": False}),
        # formats that encode nothing from one token
        ("audio1 sleep0.3 hold2 audio30", {"format": "mp3"}),
        ("audio1 sleep0.3 hold3 audio30", {"format": "fmp4"}),
    ],
    ids=["file", "mp3", "fmp4"],
)
async def test_response_is_complete_if_worker_dies_before_the_first_byte(
    service: Service, text: str, options: dict[str, Any]
) -> None:
    [hold] = re.findall(r"hold\d", text)
    asked = speech_params(text) | options
    async with service.async_client() as client:
        speaking = asyncio.create_task(client.post(ROUTE, json=asked))
        await service.until((service.folder / hold).exists)
        [killed] = service.busy_pids()
        os.kill(killed, signal.SIGKILL)
        answer = await speaking
        undisturbed = await client.post(ROUTE, json=asked)
    assert answer.status_code == undisturbed.status_code == 200
    assert answer.content == undisturbed.content
    assert "requeued" in service.log()
    assert service.queue("retries") >= 1


@pytest.mark.fault(1)
async def test_worker_death_before_receipt_does_not_count_against_the_job(
    service: Service,
) -> None:
    idle = set(service.worker_pids())
    for pid in idle:
        os.kill(pid, signal.SIGSTOP)
    async with service.async_client() as client:
        speaking = asyncio.create_task(speak(client, "audio2"))
        while idle:
            await service.until(lambda: bool(service.busy_pids() & idle))
            [pid] = service.busy_pids()
            os.kill(pid, signal.SIGKILL)
            idle.remove(pid)
        assert (await speaking).content == expected_pcm("audio2", 7)


@pytest.mark.fault(6)
async def test_request_that_kills_two_workers_is_poisoned(service: Service) -> None:
    restarts = sum(each["restarts"] for each in service.status()["workers"])
    async with service.async_client() as client:
        async with asyncio.timeout(20):
            assert error_code(await speak(client, "die audio1"), 500) == "poison_request"
    assert sum(each["restarts"] for each in service.status()["workers"]) <= restarts + 2


@pytest.mark.fault(1, 51)
def test_killed_workers_delay_a_request_and_leave_no_zombie_and_no_descriptor(
    service: Service,
) -> None:
    descriptors = []
    ids = [worker["id"] for worker in service.workers()]
    for number in (signal.SIGKILL, signal.SIGKILL, signal.SIGRTMIN + 6):
        with service.client() as client:
            client.get("/ping")  # so that the request finds a connection, and is quick
            for pid in service.worker_pids():
                os.kill(pid, number)
            check_speaks(client)
        wait_recovered(service)
        assert [worker["id"] for worker in service.workers()] == ids
        children = service.children()
        assert psutil.STATUS_ZOMBIE not in [child.status() for child in children]
        assert {child.pid for child in children} == set(service.worker_pids())
        service.wait_until(lambda: not service.connections())
        descriptors.append(service.master.num_fds())
    assert max(descriptors) - min(descriptors) <= MAX_DESCRIPTORS_MORE


# --- exceptions -----------------------------------------------------------------------------------


@pytest.mark.fault(8)
async def test_engine_failure_is_an_error_without_traceback_or_an_aborted_stream(
    service: Service,
) -> None:
    async with service.async_client() as client:
        early = await speak(client, "raise audio1")
        for detail in ("scripted", "Traceback", "RuntimeError", ".py", str(ROOT)):
            assert detail not in early.text
        await service.until(lambda: "RuntimeError: scripted" in service.log())
        asked = speech_params("audio30 sleep0.1 raise") | {"stream": False}
        for answer in (early, await client.post(ROUTE, json=asked)):
            assert error_code(answer, 500) == "engine_error"
        async with speech(service, client, "audio30 sleep0.2 raise") as failing:
            await failing.aborts()


# --- a device that is full or broken --------------------------------------------------------------


@pytest.mark.fault(9)
async def test_second_out_of_memory_replaces_the_worker_and_its_other_jobs_are_served(
    start: Callable[..., Service],
) -> None:
    """Jobs in the other slot and in the queue of the worker."""
    service = start(CONCURRENT_REQUESTS_PER_WORKER=2)
    [before] = service.worker_pids()
    texts = ["oom audio1", "oom audio1", "sleep0.3 audio2"] * 2
    async with service.async_client() as client:
        answers = await asyncio.gather(*(speak(client, text) for text in texts))
    for text, answer in zip(texts, answers, strict=True):
        if text.startswith("oom"):
            assert error_code(answer, 503) == "out_of_memory"
            assert "Retry-After" in answer.headers
        else:
            assert answer.content == expected_pcm(text, 7)
    [worker] = service.workers()
    assert worker["pid"] != before
    assert worker["restarts"] >= 1
    assert "memory" in worker["last_error"]


@pytest.mark.fault(10)
async def test_worker_with_failed_device_is_replaced_and_its_job_retried(
    service: Service,
) -> None:
    before = set(service.worker_pids())
    async with service.async_client() as client:
        answer = await speak(client, "broken1 audio30")
        assert answer.content == expected_pcm("audio30", 7)
        async with speech(service, client, "audio30 sleep0.2 broken2") as failing:
            await failing.aborts()
        for _ in range(4):
            assert (await speak(client, "audio2")).content == expected_pcm("audio2", 7)
    wait_recovered(service)
    assert before.isdisjoint(service.worker_pids())
    assert any("device-side assert" in each["last_error"] for each in service.status()["workers"])


# --- hanging --------------------------------------------------------------------------------------


@pytest.mark.timed
@pytest.mark.fault(7)
async def test_hanging_workers_are_killed_and_replaced(
    start: Callable[..., Service],
) -> None:
    """One worker is blocked before audio, one during audio, one is stopped; the fourth works."""
    service = start(WORKERS_PER_DEVICE=4, WORKER_STALL_SECONDS=STALL_S)
    service.wait_until(service.all_ready, 30)
    before = set(service.worker_pids())
    began = monotonic()
    async with service.async_client() as client:
        silent = asyncio.create_task(speak(client, "block audio1"))
        await service.until(lambda: service.busy() == 1)
        async with (
            speech(service, client, "audio30 sleep0.5 block") as blocked,
            speech(service, client, "audio30 sleep60") as stopped,
        ):
            os.kill(stopped.pid, signal.SIGSTOP)
            assert (await speak(client, "audio2")).content == expected_pcm("audio2", 7)
            async with asyncio.timeout(STALL_S + 15):
                await asyncio.gather(blocked.aborts(), stopped.aborts())
                assert error_code(await silent, 504) == "worker_stalled"
        assert monotonic() - began >= STALL_S
        assert (await speak(client, "audio2")).content == expected_pcm("audio2", 7)
    wait_recovered(service)
    assert len(before & set(service.worker_pids())) == 1
    assert re.search(r'engines.py", line \d+ in speech_tokens', service.log())
