"""Await work on an engine's own thread; a cancelled job returns only when its work has stopped."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def run_shielded(thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """Run `work()` on `thread`. If cancelled, wait for it, or drop it if it has not started."""
    future = thread.submit(work)
    try:
        return await asyncio.wrap_future(future)
    finally:
        if not future.done():
            await wait_done(future)


async def wait_done(work: "Future[T]") -> None:
    """Wait until `work` has ended in any way, however often the waiting task is cancelled."""
    done = asyncio.wrap_future(work)
    while not done.done():
        await ignore_cancellation(asyncio.wait([done]))
    if not done.cancelled():
        done.exception()  # mark it as retrieved


async def ignore_cancellation(waiting: Awaitable[object]) -> None:
    """Await `waiting` in the `finally` of a task that has already been cancelled."""
    with suppress(asyncio.CancelledError):
        await waiting
