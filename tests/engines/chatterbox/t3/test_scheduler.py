"""The scheduler's thread, with batches that are slow or fail to warm up."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import cast

import pytest

from app.engines.chatterbox.t3.request import T3Request, TokenOutput
from app.engines.chatterbox.t3.scheduler import T3Scheduler
from tests.support.waiting import until


class SlowBatch:
    """Warms up in a hundred shapes, one for each release of the gate."""

    free = 1

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.shapes = 0

    def warm_up(self) -> Iterator[None]:
        for self.shapes in range(1, 101):
            self.gate.acquire()
            yield

    def admit(self, request: T3Request) -> int:
        raise NotImplementedError

    def step(self, paused: frozenset[int]) -> dict[int, list[TokenOutput]]:
        raise NotImplementedError

    def release(self, slot: int) -> None:
        raise NotImplementedError


class FailingBatch(SlowBatch):
    def warm_up(self) -> Iterator[None]:
        raise ArithmeticError("no")


class EndlessBatch(SlowBatch):
    """Generates a token every millisecond, without end; has nothing to warm up."""

    steps = 0

    def warm_up(self) -> Iterator[None]:
        return iter(())

    def admit(self, request: T3Request) -> int:
        return 0

    def step(self, paused: frozenset[int]) -> dict[int, list[TokenOutput]]:
        time.sleep(0.001)
        self.steps += 1
        return {0: [TokenOutput(self.steps, None)]}

    def release(self, slot: int) -> None:
        pass


async def test_trims_memory_between_prefill_and_first_step() -> None:
    batch, steps_before = EndlessBatch(), []
    scheduler = T3Scheduler(batch, trim_memory=lambda: steps_before.append(batch.steps))
    outputs = scheduler.generate(cast(T3Request, None), max_lead_tokens=10)
    for _ in range(3):
        await anext(outputs)
    assert steps_before == [0]
    await outputs.aclose()
    await asyncio.to_thread(scheduler.close)


async def test_no_step_begins_while_paused() -> None:
    batch = EndlessBatch()
    scheduler = T3Scheduler(batch)
    outputs = scheduler.generate(cast(T3Request, None), max_lead_tokens=10_000)
    await anext(outputs)
    await until(lambda: batch.steps > 10)
    with scheduler.paused():
        await asyncio.sleep(0.05)  # a step that has begun may end
        before = batch.steps
        for _ in range(5):
            await anext(outputs)  # reading wakes the scheduler
        await asyncio.sleep(0.05)
        assert batch.steps == before
    await until(lambda: batch.steps > before)
    await outputs.aclose()
    await asyncio.to_thread(scheduler.close)


async def test_close_does_not_wait_for_the_rest_of_the_warm_up() -> None:
    batch = SlowBatch()
    scheduler = T3Scheduler(batch)
    closing = asyncio.create_task(asyncio.to_thread(scheduler.close))
    while not closing.done():
        batch.gate.release()
        await asyncio.sleep(0.01)
    assert batch.shapes < 100


async def test_waiting_for_the_warm_up_can_be_cancelled() -> None:
    batch = SlowBatch()
    scheduler = T3Scheduler(batch)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await scheduler.warm()
    batch.gate.release(100)
    await scheduler.warm()
    await asyncio.to_thread(scheduler.close)


async def test_raises_the_error_of_the_warm_up() -> None:
    scheduler = T3Scheduler(FailingBatch())
    with pytest.raises(ArithmeticError):
        await scheduler.warm()
    await asyncio.to_thread(scheduler.close)
