import asyncio
from time import monotonic

import pytest

import app.core.running_time as running_time_module
from app.core.running_time import RunningTime, timeout


def test_time_of_a_suspended_process_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(running_time_module, "monotonic", lambda: now)
    clock = RunningTime()
    began = clock()
    for seconds in (0.5, 1, 1.5, 100, 0.5, 100):
        now += seconds
        clock()
    assert clock() - began == 3.5


async def test_timeout_does_not_count_the_time_of_a_suspended_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent_s = 100.0
    monkeypatch.setattr(running_time_module, "running_time", RunningTime())
    async with timeout(0.2):
        monkeypatch.setattr(running_time_module, "monotonic", lambda: monotonic() + absent_s)
        await asyncio.sleep(0.1)
    with pytest.raises(TimeoutError):
        async with timeout(0.05):
            await asyncio.sleep(10)
    with pytest.raises(TimeoutError):
        async with timeout(-1):
            await asyncio.sleep(10)
