"""Stalled clients delay only their own stream and take little memory."""

import asyncio
from collections.abc import Callable
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
from tests.support.service import Service

pytestmark = pytest.mark.timed

BYTES_PER_S = 48_000
MB = 1_048_576
LONG = "audio50 " * 200
LONG_S = 400
SHORT = "audio50 " * 10
SHORT_S = 20


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


@pytest.mark.fault(12)
async def test_briefly_stalled_client_delays_no_other(
    start: Callable[..., Service],
) -> None:
    service = start(CONCURRENT_REQUESTS_PER_WORKER=2, MAX_AHEAD_SECONDS=2)
    await check_stalled_client(service, ahead_s=2, stall_s=1.5)


@pytest.mark.fault(12)
@pytest.mark.heavy
async def test_client_stalled_for_a_minute_delays_no_other(
    start: Callable[..., Service],
) -> None:
    await check_stalled_client(start(CONCURRENT_REQUESTS_PER_WORKER=2), ahead_s=60, stall_s=60)


@pytest.mark.fault(12)
async def test_unread_short_response_releases_its_slot_when_generated(
    start: Callable[..., Service],
) -> None:
    service = start()
    with slow_connection(service, speech(SHORT)) as connection:
        await service.until(lambda: f"audio_s={SHORT_S}.000" in service.log(), 5)
        assert service.busy() == 0
        assert (await fetch(service, speech("audio3"))).body == expected_pcm("audio3", 7)
        answer = parse_response(await asyncio.to_thread(read_bytes, connection))
    assert answer.complete
    assert answer.body == expected_pcm(SHORT, 7)
