import asyncio
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from app.engines.chatterbox.s3gen.scheduler import NOTHING_HEARD, DecodeLoop, Slice


class Stream:
    """Its mel is its name; its audio is told from it."""

    def __init__(self, name: str, fault: Exception | None = None) -> None:
        self.name = name
        self.fault = fault

    def solve_for(self, tokens: Tensor) -> str | None:
        return self.name if len(tokens) else None

    def extend(self, tokens: Tensor, mel: str | None, last: bool) -> Tensor:
        if self.fault:
            raise self.fault
        assert mel == (self.name if len(tokens) else None)
        return torch.ones(len(tokens))


class Flow:
    """Solves two at once, each time not before it is let."""

    at_once = 2

    def __init__(self) -> None:
        self.let = threading.Semaphore(0)
        self.solved: list[list[str]] = []
        self.begun = threading.Event()
        self.fault: Exception | None = None

    def solve(self, names: list[str], on_step: Callable[[], None]) -> list[str]:
        self.begun.set()
        self.let.acquire()
        on_step()
        if self.fault:
            raise self.fault
        self.solved.append(names)
        return names


@pytest.fixture
def flow() -> Flow:
    return Flow()


@pytest.fixture
def loop(flow: Flow) -> Iterator[DecodeLoop]:
    s3gen: Any = SimpleNamespace(flow=flow, fade_in=torch.zeros(1))
    loop = DecodeLoop(s3gen, lambda: None, lambda: None)
    yield loop
    loop.close()


def piece(stream: Stream, due: float = NOTHING_HEARD, tokens: int = 3) -> Slice:
    known: Any = stream
    return Slice(known, list(range(tokens)), last=False, due=due)


async def begun(flow: Flow) -> None:
    await asyncio.to_thread(flow.begun.wait)


async def test_the_most_urgent_are_solved_first_as_many_together_as_can_be(
    loop: DecodeLoop, flow: Flow
) -> None:
    held = asyncio.create_task(loop.decode(piece(Stream("held"))))
    await begun(flow)
    others = [
        asyncio.create_task(loop.decode(piece(Stream(name), due)))
        for name, due in {"late": 9.0, "soon": 1.0, "later": 20.0, "first": NOTHING_HEARD}.items()
    ]
    await asyncio.sleep(0)
    flow.let.release(3)
    heard = await asyncio.gather(held, *others)
    assert flow.solved == [["held"], ["first", "soon"], ["late", "later"]]
    assert [len(audio) for audio in heard] == [3] * 5
    assert loop.steps == 3


async def test_a_slice_without_tokens_is_not_solved(loop: DecodeLoop, flow: Flow) -> None:
    assert len(await loop.decode(piece(Stream("end"), tokens=0))) == 0
    assert flow.solved == []


async def test_who_leaves_while_he_waits_is_never_solved(loop: DecodeLoop, flow: Flow) -> None:
    held = asyncio.create_task(loop.decode(piece(Stream("held"))))
    await begun(flow)
    gone, other = (
        asyncio.create_task(loop.decode(piece(Stream(name)))) for name in ("gone", "other")
    )
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    flow.let.release(2)
    await asyncio.gather(held, other)
    assert flow.solved == [["held"], ["other"]]


async def test_who_leaves_alone_ends_the_solve_at_its_next_step(
    loop: DecodeLoop, flow: Flow
) -> None:
    gone = asyncio.create_task(loop.decode(piece(Stream("gone"))))
    await begun(flow)
    gone.cancel()
    await asyncio.sleep(0)
    assert not gone.done()  # the stream is still in use
    flow.let.release(2)
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert flow.solved == []
    assert len(await loop.decode(piece(Stream("next")))) == 3


async def test_a_fault_of_one_stream_is_told_to_no_other(loop: DecodeLoop, flow: Flow) -> None:
    held = asyncio.create_task(loop.decode(piece(Stream("held"))))
    await begun(flow)
    bad, good = (
        asyncio.create_task(loop.decode(piece(stream)))
        for stream in (Stream("bad", ArithmeticError("no")), Stream("good"))
    )
    await asyncio.sleep(0)
    flow.let.release(2)
    assert len(await good) == len(await held) == 3
    with pytest.raises(ArithmeticError):
        await bad


async def test_a_fault_of_a_solve_is_told_to_all_that_were_in_it(
    loop: DecodeLoop, flow: Flow
) -> None:
    flow.fault = MemoryError("full")
    flow.let.release(1)
    with pytest.raises(MemoryError):
        await loop.decode(piece(Stream("one")))
    flow.fault = None
    flow.let.release(1)
    assert len(await loop.decode(piece(Stream("one")))) == 3


async def test_a_fault_before_the_solve_is_told_too(loop: DecodeLoop, flow: Flow) -> None:
    unusable: Any = ["not a token"]
    broken = piece(Stream("one"))
    broken.tokens = unusable
    with pytest.raises(ValueError, match="str"):
        await loop.decode(broken)
    flow.let.release(1)
    assert len(await loop.decode(piece(Stream("one")))) == 3


async def test_a_thread_that_cannot_begin_says_so() -> None:
    def refuse() -> None:
        raise RuntimeError("no such device")

    s3gen: Any = SimpleNamespace(flow=Flow())
    loop = DecodeLoop(s3gen, refuse, lambda: None)
    nobody: Any = None
    with pytest.raises(RuntimeError, match="no such device"):
        await loop.warm_up(nobody)
    loop.close()
