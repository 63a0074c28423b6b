import asyncio
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from app.engines.chatterbox.s3gen.scheduler import FIRST_SLICE_DEADLINE, S3GenScheduler, SliceTask


class Stream:
    """Its mel is its name."""

    def __init__(self, name: str, failure: Exception | None = None) -> None:
        self.name = name
        self.failure = failure

    def prepare(self, tokens: Tensor) -> str | None:
        return self.name if len(tokens) else None

    def commit(self, tokens: Tensor, mel: str | None, last: bool) -> Tensor:
        if self.failure:
            raise self.failure
        assert mel == (self.name if len(tokens) else None)
        return torch.ones(len(tokens))


class Flow:
    """Solves batches of two, each when `proceed` is released."""

    max_batch_size = 2

    def __init__(self) -> None:
        self.proceed = threading.Semaphore(0)
        self.solved: list[list[str]] = []
        self.started = threading.Event()
        self.failure: Exception | None = None

    def solve(self, names: list[str], on_step: Callable[[], None]) -> list[str]:
        self.started.set()
        self.proceed.acquire()
        on_step()
        if self.failure:
            raise self.failure
        self.solved.append(names)
        return names


@pytest.fixture
def flow() -> Flow:
    return Flow()


@pytest.fixture
def scheduler(flow: Flow) -> Iterator[S3GenScheduler]:
    s3gen: Any = SimpleNamespace(flow=flow, fade_in=torch.zeros(1))
    scheduler = S3GenScheduler(s3gen, lambda: None, lambda: None)
    yield scheduler
    scheduler.close()


def task(stream: Any, deadline: float = FIRST_SLICE_DEADLINE, tokens: int = 3) -> SliceTask:
    return SliceTask(stream, list(range(tokens)), last=False, deadline=deadline)


async def started(flow: Flow) -> None:
    await asyncio.to_thread(flow.started.wait)


async def test_slices_are_solved_in_batches_by_earliest_deadline(
    scheduler: S3GenScheduler, flow: Flow
) -> None:
    held = asyncio.create_task(scheduler.decode(task(Stream("held"))))
    await started(flow)
    deadlines = {"late": 9.0, "soon": 1.0, "later": 20.0, "first": FIRST_SLICE_DEADLINE}
    others = [
        asyncio.create_task(scheduler.decode(task(Stream(name), deadline)))
        for name, deadline in deadlines.items()
    ]
    await asyncio.sleep(0)
    flow.proceed.release(3)
    audio = await asyncio.gather(held, *others)
    assert flow.solved == [["held"], ["first", "soon"], ["late", "later"]]
    assert [len(samples) for samples in audio] == [3] * 5
    assert scheduler.steps == 3


async def test_slice_without_tokens_is_not_solved(scheduler: S3GenScheduler, flow: Flow) -> None:
    assert len(await scheduler.decode(task(Stream("end"), tokens=0))) == 0
    assert flow.solved == []


async def test_waiting_slice_of_a_cancelled_job_is_never_solved(
    scheduler: S3GenScheduler, flow: Flow
) -> None:
    held = asyncio.create_task(scheduler.decode(task(Stream("held"))))
    await started(flow)
    gone, other = (
        asyncio.create_task(scheduler.decode(task(Stream(name)))) for name in ("gone", "other")
    )
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    flow.proceed.release(2)
    await asyncio.gather(held, other)
    assert flow.solved == [["held"], ["other"]]


async def test_cancelled_batch_ends_at_the_next_step(scheduler: S3GenScheduler, flow: Flow) -> None:
    gone = asyncio.create_task(scheduler.decode(task(Stream("gone"))))
    await started(flow)
    gone.cancel()
    await asyncio.sleep(0)
    assert not gone.done()  # the stream is still in use
    flow.proceed.release(2)
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert flow.solved == []
    assert len(await scheduler.decode(task(Stream("next")))) == 3


async def test_error_of_one_stream_fails_only_its_own_slice(
    scheduler: S3GenScheduler, flow: Flow
) -> None:
    held = asyncio.create_task(scheduler.decode(task(Stream("held"))))
    await started(flow)
    bad, good = (
        asyncio.create_task(scheduler.decode(task(stream)))
        for stream in (Stream("bad", ArithmeticError("no")), Stream("good"))
    )
    await asyncio.sleep(0)
    flow.proceed.release(2)
    assert len(await good) == len(await held) == 3
    with pytest.raises(ArithmeticError):
        await bad


async def test_error_in_solve_fails_the_whole_batch(scheduler: S3GenScheduler, flow: Flow) -> None:
    flow.failure = MemoryError("full")
    flow.proceed.release(1)
    with pytest.raises(MemoryError):
        await scheduler.decode(task(Stream("one")))
    flow.failure = None
    flow.proceed.release(1)
    assert len(await scheduler.decode(task(Stream("one")))) == 3


async def test_error_before_the_solve_fails_the_batch(
    scheduler: S3GenScheduler, flow: Flow
) -> None:
    unusable: Any = ["not a token"]
    broken = task(Stream("one"))
    broken.tokens = unusable
    with pytest.raises(ValueError, match="str"):
        await scheduler.decode(broken)
    flow.proceed.release(1)
    assert len(await scheduler.decode(task(Stream("one")))) == 3


async def test_warm_up_raises_error_of_binding_the_thread() -> None:
    def refuse() -> None:
        raise RuntimeError("no such device")

    s3gen: Any = SimpleNamespace(flow=Flow())
    scheduler = S3GenScheduler(s3gen, refuse, lambda: None)
    prompt: Any = None
    with pytest.raises(RuntimeError, match="no such device"):
        await scheduler.warm_up(prompt)
    scheduler.close()
