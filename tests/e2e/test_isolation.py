"""Innocent requests end well: beside one that kills workers, after a suspension, at shutdown."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep

import psutil
import pytest

from tests.support.engines import expected_pcm
from tests.support.http_client import (
    check_speaks,
    fetch,
    get,
    parse_response,
    read_bytes,
    slow_connection,
    speech,
)
from tests.support.service import API_KEY, ROOT, SCRIPTED, Service, free_port

MB = 1_048_576
GOOD = "sleep0.4 audio5"
STEADY = "audio1 " + "sleep0.1 audio1 " * 30
STALL_S = 2
SUSPENDED_S = 3.5


@pytest.mark.fault(80)
async def test_requests_beside_one_that_kills_its_worker_are_complete(
    start: Callable[..., Service],
) -> None:
    service = start(CONCURRENT_REQUESTS_PER_WORKER=8)
    texts = [GOOD] * 5 + ["sleep0.2 die"]
    answers = await asyncio.gather(*(fetch(service, speech(text)) for text in texts))
    *good, bad = answers
    assert [answer.body for answer in good] == [expected_pcm(GOOD, 7)] * 5
    assert bad.status == 500
    assert b"poison_request" in bad.body
    [worker] = service.workers()
    assert worker["restarts"] == 3


@pytest.mark.timed
@pytest.mark.fault(85)
@pytest.mark.parametrize("suspended", ["master", "all"])
async def test_suspension_longer_than_every_limit_ends_no_stream(
    start: Callable[..., Service], suspended: str
) -> None:
    service = start(
        WORKERS_PER_DEVICE=2,
        WORKER_STALL_SECONDS=STALL_S,
        CLIENT_STALL_SECONDS=STALL_S,
    )
    service.wait_until(service.all_ready)
    workers = service.worker_pids()
    streams = [asyncio.create_task(fetch(service, speech(STEADY))) for _ in range(2)]
    await service.until(lambda: service.busy() == 2)
    processes = [service.master, *(service.children() if suspended == "all" else ())]
    for process in processes:
        process.suspend()
    await asyncio.sleep(SUSPENDED_S)
    for process in processes:
        process.resume()
    for stream in streams:
        assert (await stream).body == expected_pcm(STEADY, 7)
    assert service.worker_pids() == workers


@pytest.mark.timed
@pytest.mark.fault(89)
async def test_finished_answers_that_are_not_read_are_given_up(
    start: Callable[..., Service],
) -> None:
    service = start(CLIENT_STALL_SECONDS=1, MAX_AHEAD_SECONDS=600, SHUTDOWN_GRACE_SECONDS=15)
    await check_speaks(service)
    before = service.master.memory_info().rss
    with ExitStack() as stack:
        unread = [
            stack.enter_context(slow_connection(service, speech("audio1000 " * 12)))
            for _ in range(5)
        ]
        await service.until(lambda: service.log().count("unread audio dropped") == len(unread))
        assert 'outcome="done"} 6' in (await fetch(service, METRICS)).body.decode()
        await service.until(lambda: service.master.memory_info().rss < before + 20 * MB)
        for connection in unread:
            assert not parse_response(await asyncio.to_thread(read_bytes, connection)).complete
    await check_speaks(service)
    began = monotonic()
    assert service.stop() == 0
    assert monotonic() - began < 5
    assert "Traceback" not in service.log()


METRICS = get("/metrics")


@pytest.mark.fault(90)
def test_sigterm_is_handled_before_anything_is_started(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "serve"],
        cwd=tmp_path,
        env={
            "PYTHONPATH": str(ROOT),
            "API_KEY": API_KEY,
            "MODEL": SCRIPTED,
            "PORT": str(free_port()),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    while not handles(process.pid, signal.SIGTERM):
        assert not psutil.Process(process.pid).children()
        sleep(0.001)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=10)
    assert (process.returncode, output) == (128 + signal.SIGTERM, b"")


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for the signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    [caught] = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")]
    return bool(int(caught, 16) >> (number - 1) & 1)
