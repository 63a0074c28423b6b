"""A thread for blocking calls that may hang: into a network volume, or into a driver."""

import asyncio
import errno
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

from app.core.running_time import timeout

P = ParamSpec("P")
T = TypeVar("T")

CLOSE_S = 2.0


class BlockingThread:
    """Runs the operations on `subject`, each for at most `max_s`, one after the other.

    While one hangs, all others fail. A daemon thread, so that the process can exit nevertheless.
    """

    def __init__(self, name: str, subject: str, max_s: float) -> None:
        self._subject = subject
        self._max_s = max_s
        self._operations: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._working = False
        self._late = False  # the operation in progress has taken too long
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `work` returns. Raises TimeoutError, an OSError, after `max_s`."""
        if self._working and self._late:
            raise self._timeout()
        result: Future[T] = Future()
        self._operations.put(partial(_complete, result, partial(work, *args, **kwargs)))
        try:
            async with timeout(self._max_s):
                return await asyncio.wrap_future(result)
        except TimeoutError as error:
            if error.errno:
                raise
            self._late = True
            raise self._timeout() from None

    def submit(self, work: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Have it done some time, whatever comes of it."""
        self._operations.put(partial(_complete, Future[object](), partial(work, *args, **kwargs)))

    def close(self) -> None:
        """Wait for the operation in progress, unless it hangs; no other call may follow."""
        self._operations.put(None)
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        while operation := self._operations.get():
            self._working, self._late = True, False
            operation()
            self._working = False

    def _timeout(self) -> TimeoutError:
        return TimeoutError(
            errno.ETIMEDOUT, f"it has not answered for {self._max_s:g} s", self._subject
        )


def _complete(result: "Future[Any]", work: Callable[[], Any]) -> None:
    if not result.set_running_or_notify_cancel():
        return
    try:
        result.set_result(work())
    except BaseException as error:  # noqa: BLE001 - raised where it is awaited
        result.set_exception(error)
