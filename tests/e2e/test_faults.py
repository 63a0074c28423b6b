"""Workers that die, hang or fail: who notices, what the clients see, and that all goes on."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import psutil
import pytest

from tests.scripted import expected_pcm
from tests.service import ROOT, Service, running_service

ROUTE = "/tts/generate"
STALL_S = 3
SLOW = "audio10 " + "sleep0.1 audio1 " * 30
WORKERS = 2


@pytest.fixture(scope="module")
def _service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("faults"), WORKERS_PER_DEVICE=WORKERS) as service:
        yield service


@pytest.fixture
def service(_service: Service) -> Iterator[Service]:
    """Two workers; after each test they are all there again, and work."""
    healed(_service)
    yield _service
    healed(_service)


def healed(service: Service) -> None:
    """Wait until every worker is ready, and have each finish a job: the next death is its first."""
    service.wait_until(lambda: all_ready(service), 20)
    with service.client() as client:
        for _ in service.worker_pids():
            assert client.post(ROUTE, json=job("audio1")).content == expected_pcm("audio1", 7)
    service.wait_until(lambda: service.busy() == 0)
    assert service.status()["queue"]["waiting"] == 0


def all_ready(service: Service) -> bool:
    return all(each["state"] == "ready" and each["pid"] for each in service.status()["workers"])


def job(text: str) -> dict[str, Any]:
    return {"text": text, "seed": 7, "format": "raw_pcm", "chunk_overlap_method": "zero"}


async def speak(client: httpx.AsyncClient, text: str) -> httpx.Response:
    return await client.post(ROUTE, json=job(text))


def error_code(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return answer.json()["error"]["code"]


def busy_pids(service: Service) -> set[int]:
    return {each["pid"] for each in service.status()["workers"] if each["busy"]}


class Speech:
    """A stream that has begun on the worker `pid`."""

    def __init__(self, pid: int, audio: AsyncIterator[bytes], first: bytes) -> None:
        self.pid = pid
        self._audio = audio
        self._first = first

    async def rest(self) -> bytes:
        """All of it, from its start."""
        return self._first + b"".join([piece async for piece in self._audio])

    async def aborts(self) -> None:
        """It ends as what is no whole response."""
        with pytest.raises(httpx.RemoteProtocolError):
            await self.rest()


@asynccontextmanager
async def speech(
    service: Service, client: httpx.AsyncClient, text: str = SLOW
) -> AsyncIterator[Speech]:
    before = busy_pids(service)
    async with client.stream("POST", ROUTE, json=job(text)) as answer:
        audio = answer.aiter_raw()
        first = await anext(audio)
        [pid] = busy_pids(service) - before
        yield Speech(pid, audio, first)


# --- kill -9 --------------------------------------------------------------------------------------


async def test_a_worker_killed_amid_speech_aborts_that_stream_only(service: Service) -> None:
    async with (
        service.async_client() as client,
        speech(service, client) as doomed,
        speech(service, client) as other,
    ):
        waiting = asyncio.create_task(speak(client, "audio2"))
        await service.until(lambda: service.status()["queue"]["waiting"] == 1)
        os.kill(doomed.pid, signal.SIGKILL)
        async with asyncio.timeout(2):
            await doomed.aborts()
        assert (await speak(client, "audio3")).content == expected_pcm("audio3", 7)
        assert (await waiting).content == expected_pcm("audio2", 7)
        assert await other.rest() == expected_pcm(SLOW, 7)


async def test_a_job_whose_worker_dies_before_its_first_byte_is_tried_again(
    service: Service,
) -> None:
    async with service.async_client() as client:
        speaking = asyncio.create_task(speak(client, "sleep0.5 audio30"))
        await service.until(lambda: service.busy() == 1)
        [killed] = busy_pids(service)
        os.kill(killed, signal.SIGKILL)
        answer = await speaking
    assert answer.status_code == 200
    assert answer.content == expected_pcm("audio30", 7)
    assert "retried" in service.log()


async def test_an_idle_worker_that_is_killed_is_replaced_and_no_request_fails(
    service: Service,
) -> None:
    before = {each["id"]: each for each in service.status()["workers"]}
    killed = service.worker_pids()[0]
    os.kill(killed, signal.SIGKILL)
    async with service.async_client() as client:
        for _ in range(10):
            assert (await speak(client, "audio2")).content == expected_pcm("audio2", 7)
    service.wait_until(lambda: all_ready(service) and killed not in service.worker_pids())
    after = {each["id"]: each for each in service.status()["workers"]}
    assert after.keys() == before.keys()
    restarts = {id_: after[id_]["restarts"] - before[id_]["restarts"] for id_ in before}
    assert sorted(restarts.values()) == [0, 1]


async def test_a_request_that_kills_its_workers_is_given_up(service: Service) -> None:
    restarts = sum(each["restarts"] for each in service.status()["workers"])
    async with service.async_client() as client:
        async with asyncio.timeout(20):
            assert error_code(await speak(client, "die audio1"), 500) == "poison_request"
    assert sum(each["restarts"] for each in service.status()["workers"]) <= restarts + 2


def test_workers_killed_one_after_the_other_leave_no_zombie(service: Service) -> None:
    master = psutil.Process(service.process.pid)
    for pid in service.worker_pids():
        os.kill(pid, signal.SIGKILL)
    healed(service)
    children = master.children(recursive=True)
    assert psutil.STATUS_ZOMBIE not in [child.status() for child in children]
    assert {child.pid for child in children} == set(service.worker_pids())


async def test_a_killed_master_takes_its_workers_along(start: Callable[..., Service]) -> None:
    service = start(WORKERS_PER_DEVICE=2)
    service.wait_until(lambda: all_ready(service))
    workers = [psutil.Process(pid) for pid in service.worker_pids()]
    os.kill(workers[0].pid, signal.SIGSTOP)  # one that can do nothing for its own end
    service.process.kill()
    _, alive = psutil.wait_procs(workers, timeout=2)
    for worker in alive:
        worker.kill()
    assert not alive


# --- exceptions -----------------------------------------------------------------------------------


async def test_an_engine_that_fails_before_any_audio_is_an_error_without_its_trace(
    service: Service,
) -> None:
    async with service.async_client() as client:
        answer = await speak(client, "raise audio1")
    assert error_code(answer, 500) == "engine_error"
    for detail in ("scripted", "Traceback", "RuntimeError", ".py", str(ROOT)):
        assert detail not in answer.text
    assert "RuntimeError: scripted" in service.log()


async def test_an_engine_that_fails_amid_audio_aborts_the_stream(service: Service) -> None:
    async with (
        service.async_client() as client,
        speech(service, client, "audio30 sleep0.2 raise") as doomed,
    ):
        await doomed.aborts()


async def test_a_whole_file_is_not_sent_of_a_job_that_fails(service: Service) -> None:
    async with service.async_client() as client:
        asked = job("audio30 sleep0.1 raise") | {"stream": False}
        assert error_code(await client.post(ROUTE, json=asked), 500) == "engine_error"


# --- hanging --------------------------------------------------------------------------------------


async def test_workers_that_hang_are_found_killed_and_replaced(
    start: Callable[..., Service],
) -> None:
    """One blocked before its first audio, one amid it, one stopped; a fourth one works."""
    service = start(WORKERS_PER_DEVICE=4, WORKER_STALL_SECONDS=STALL_S)
    service.wait_until(lambda: all_ready(service), 30)
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
    healed(service)
    assert len(before & set(service.worker_pids())) == 1
    assert re.search(r'scripted.py", line \d+ in speech_tokens', service.log())


def test_a_worker_that_cannot_start_says_why(tmp_path: Path) -> None:
    service = Service(tmp_path, {"MODEL": "tests.nowhere:Engine"})
    try:
        service.wait_until(lambda: "next start" in service.log(), 20)
        [worker] = service.status()["workers"]
        assert "tests.nowhere" in worker["last_error"]
        assert worker["state"] == "starting"
        with service.client() as client:
            assert client.get("/health").status_code == 200
            assert client.get("/ready").status_code == 503
            assert error_code(client.post(ROUTE, json=job("audio1")), 503) == "not_ready"
        assert "Traceback" not in service.log()
    finally:
        service.stop()


def test_a_worker_ended_by_a_signal_without_a_name_is_replaced(service: Service) -> None:
    [first, *_] = service.worker_pids()
    os.kill(first, signal.SIGRTMIN + 6)
    service.wait_until(lambda: first not in service.worker_pids(), 5)
    service.wait_until(lambda: all_ready(service), 20)
