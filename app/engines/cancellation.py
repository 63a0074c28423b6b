"""Awaiting work on an engine's own thread, in a way that a cancelled job leaves nothing behind."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def _let_it_be() -> None:
    pass


async def run_to_its_end(
    thread: ThreadPoolExecutor, step: Callable[[], T], hurry: Callable[[], None] = _let_it_be
) -> T:
    """`step()` on that thread. Cancelled, it lets a running step end before it returns.

    A step that has not begun by then never runs; one that has is told by `hurry()`.
    """
    work = thread.submit(step)
    try:
        return await asyncio.wrap_future(work)
    finally:
        if not work.done():
            hurry()
            await ended(work)


async def ended(work: "Future[T]") -> None:
    """Returns when `work` is over, in whatever way, and however often it is cancelled meanwhile."""
    end = asyncio.wrap_future(work)
    while not end.done():
        await in_spite_of_cancellation(asyncio.wait([end]))
    if not end.cancelled():
        end.exception()  # seen


async def in_spite_of_cancellation(waiting: Awaitable[object]) -> None:
    """For the `finally` of something that was cancelled already: once is enough."""
    with suppress(asyncio.CancelledError):
        await waiting
