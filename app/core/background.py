"""Tasks that run as long as the service does."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class BackgroundTasks:
    """Owns tasks that should never end; `crashed` fails with the exception of one that does."""

    def __init__(self) -> None:
        self.crashed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()  # the event loop keeps weak references only

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not self.crashed.done():
            self.crashed.set_exception(error)
