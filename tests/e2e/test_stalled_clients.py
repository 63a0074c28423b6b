"""Stalled clients delay only their own stream and take little memory."""

import asyncio
import re
from collections.abc import Callable, Iterator
from statistics import median
from time import monotonic

import psutil
import pytest

from tests.support.engines import expected_pcm
from tests.support.http_client import (
    fetch,
    parse_response,
    read_bytes,
    slow_connection,
    speech,
)
from tests.support.service import Service, running_service

pytestmark = pytest.mark.timed

BYTES_PER_S = 48_000
MB = 1_048_576
LONG = "audio50 " * 200
LONG_S = 400
AHEAD_S = 2


async def typical_s(service: Service, for_s: float) -> float:
    """Return the median time of other clients' short requests."""
    taken, end = [], monotonic() + for_s
    while monotonic() < end:
        began = monotonic()
        assert (await fetch(service, speech("audio3"))).body == expected_pcm("audio3", 7)
        taken.append(monotonic() - began)
        await asyncio.sleep(0.02)
    return median(taken)


async def check_stalled_client(service: Service, ahead_s: float, stall_s: float) -> None:
    """A client in one of two slots reads nothing for `stall_s`, then everything."""
    master = psutil.Process(service.process.pid)
    undisturbed_s = await typical_s(service, 0.5)
    memory = master.memory_info().rss
    with slow_connection(service, speech(LONG)) as connection:
        await service.until(lambda: service.busy() == 1)
        beside_s = await typical_s(service, stall_s)
        grown = master.memory_info().rss - memory
        assert service.busy() == 1
        answer = parse_response(await asyncio.to_thread(read_bytes, connection))
    print(f"{undisturbed_s * 1000:.1f} ms, {beside_s * 1000:.1f} ms, {grown / MB:.1f} MB")
    assert answer.complete
    assert answer.body == expected_pcm(LONG, 7)
    assert beside_s < 2 * undisturbed_s
    assert grown < ahead_s * BYTES_PER_S + 8 * MB < LONG_S * BYTES_PER_S
    await service.until(lambda: service.busy() == 0, 1)


@pytest.fixture(scope="module")
def impatient_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One worker with two slots, little audio ahead, and a short timeout for stalled clients."""
    with running_service(
        tmp_path_factory.mktemp("stalled"),
        CONCURRENT_REQUESTS_PER_WORKER=2,
        MAX_AHEAD_SECONDS=AHEAD_S,
        CLIENT_STALL_SECONDS=3,
    ) as service:
        yield service


@pytest.mark.fault(12)
async def test_briefly_stalled_client_delays_no_other(impatient_service: Service) -> None:
    await check_stalled_client(impatient_service, ahead_s=AHEAD_S, stall_s=1.5)


@pytest.mark.fault(12)
@pytest.mark.heavy
async def test_client_stalled_for_a_minute_delays_no_other(
    start: Callable[..., Service],
) -> None:
    await check_stalled_client(start(CONCURRENT_REQUESTS_PER_WORKER=2), ahead_s=60, stall_s=60)


@pytest.mark.fault(12)
async def test_client_that_does_not_read_is_cut_off(impatient_service: Service) -> None:
    """Its job pauses before."""
    service = impatient_service
    with slow_connection(service, speech(LONG)) as stalled:
        await service.until(lambda: service.busy() == 1)
        await service.until(lambda: service.busy() == 0)
        received = await asyncio.to_thread(read_bytes, stalled)
    assert not parse_response(received).complete
    [made_s] = re.findall(r"client_stalled.* audio_s=([\d.]+)", service.log())
    assert float(made_s) < LONG_S / 2
    ahead_s = float(made_s) - len(received) / BYTES_PER_S
    assert ahead_s <= 3 * AHEAD_S  # the credit, the piece that crosses it, and one at the socket
