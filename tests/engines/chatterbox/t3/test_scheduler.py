"""The thread that a batch runs on, with batches that are only slow or unwilling to warm up."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import cast

import pytest

from app.engines.chatterbox.t3.batch import Step, T3Request
from app.engines.chatterbox.t3.scheduler import T3Scheduler
from tests.support.waiting import until


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

    def step(self, waiting: frozenset[int]) -> dict[int, list[Step]]:
        raise NotImplementedError

    def release(self, slot: int) -> None:
        raise NotImplementedError


class UnwillingBatch(SlowBatch):
    def warm_up(self) -> Iterator[None]:
        raise ArithmeticError("no")


class TalkativeBatch(SlowBatch):
    """Has no shapes to warm up in, and says a token every millisecond, without end."""

    steps = 0

    def warm_up(self) -> Iterator[None]:
        return iter(())

    def admit(self, request: T3Request) -> int:
        return 0

    def step(self, waiting: frozenset[int]) -> dict[int, list[Step]]:
        time.sleep(0.001)
        self.steps += 1
        return {0: [Step(self.steps, None)]}

    def release(self, slot: int) -> None:
        pass


async def test_what_a_prompt_left_is_tidied_up_before_the_first_step() -> None:
    batch, steps_before = TalkativeBatch(), []
    loop = T3Scheduler(batch, tidy_up=lambda: steps_before.append(batch.steps))
    tokens = loop.speak(cast(T3Request, None), ahead=10)
    for _ in range(3):
        await anext(tokens)
    assert steps_before == [0]
    await tokens.aclose()
    await asyncio.to_thread(loop.close)


async def test_while_paused_no_step_begins() -> None:
    batch = TalkativeBatch()
    loop = T3Scheduler(batch)
    tokens = loop.speak(cast(T3Request, None), ahead=10_000)
    await anext(tokens)
    await until(lambda: batch.steps > 10)
    with loop.paused():
        await asyncio.sleep(0.05)  # what had begun may end
        before = batch.steps
        for _ in range(5):
            await anext(tokens)  # the loop hears that they were read
        await asyncio.sleep(0.05)
        assert batch.steps == before
    await until(lambda: batch.steps > before)
    await tokens.aclose()
    await asyncio.to_thread(loop.close)


async def test_closing_does_not_wait_for_the_whole_warm_up() -> None:
    batch = SlowBatch()
    loop = T3Scheduler(batch)
    closing = asyncio.create_task(asyncio.to_thread(loop.close))
    while not closing.done():
        batch.gate.release()
        await asyncio.sleep(0.01)
    assert batch.shapes < 100


async def test_who_waits_for_the_warm_up_may_leave() -> None:
    batch = SlowBatch()
    loop = T3Scheduler(batch)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await loop.warm()
    batch.gate.release(100)
    await loop.warm()
    await asyncio.to_thread(loop.close)


async def test_a_warm_up_that_fails_is_told() -> None:
    loop = T3Scheduler(UnwillingBatch())
    with pytest.raises(ArithmeticError):
        await loop.warm()
    await asyncio.to_thread(loop.close)
