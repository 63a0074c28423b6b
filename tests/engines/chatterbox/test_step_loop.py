"""The thread that a batch runs on, with batches that are only slow or unwilling to warm up."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from app.engines.chatterbox.step_loop import StepLoop
from app.engines.chatterbox.t3 import Step, T3Request


class SlowBatch:
    """Warms up in a hundred shapes, each of which waits to be let through."""

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

    def step(self, waiting: frozenset[int]) -> dict[int, Step]:
        raise NotImplementedError

    def release(self, slot: int) -> None:
        raise NotImplementedError


class UnwillingBatch(SlowBatch):
    def warm_up(self) -> Iterator[None]:
        raise ArithmeticError("no")


async def test_closing_does_not_wait_for_the_whole_warm_up() -> None:
    batch = SlowBatch()
    loop = StepLoop(batch)
    closing = asyncio.create_task(asyncio.to_thread(loop.close))
    while not closing.done():
        batch.gate.release()
        await asyncio.sleep(0.01)
    assert batch.shapes < 100


async def test_who_waits_for_the_warm_up_may_leave() -> None:
    batch = SlowBatch()
    loop = StepLoop(batch)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await loop.warm()
    batch.gate.release(100)
    await loop.warm()
    await asyncio.to_thread(loop.close)


async def test_a_warm_up_that_fails_is_told() -> None:
    loop = StepLoop(UnwillingBatch())
    with pytest.raises(ArithmeticError):
        await loop.warm()
    await asyncio.to_thread(loop.close)
