"""The supervisor: starts and stops the managed workers of all devices.

Called by `LocalBackend`. It lets the dispatcher accept jobs while a worker is ready or restarting.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import zmq

from app.backend.base import ModelInfo
from app.backend.local.dispatcher import Dispatcher
from app.backend.local.managed_worker import ManagedWorker, WorkerContext, WorkerLimits
from app.backend.local.voice_tracker import VoiceTracker
from app.core.devices import Device
from app.ipc.messages import Broadcast, Drain, WorkerConfig

SpawnTask = Callable[[Coroutine[Any, Any, None], str], "asyncio.Task[None]"]
"""Makes a named task of a coroutine; an exception in it ends the service."""

EXIT_TIMEOUT_S = 2.0


class Supervisor:
    def __init__(
        self,
        context: "zmq.Context[Any]",
        dispatcher: Dispatcher,
        voices: VoiceTracker,
        broadcast: Callable[[Broadcast], None],
        limits: WorkerLimits,
        spawn_task: SpawnTask,
    ) -> None:
        self.workers: list[ManagedWorker] = []
        self._dispatcher = dispatcher
        self._broadcast = broadcast
        self._spawn_task = spawn_task
        self._tasks: list[asyncio.Task[None]] = []
        self._shared = WorkerContext(
            context,
            dispatcher,
            voices,
            limits,
            self._update_accepting,
        )

    def start(self, config: WorkerConfig, device: Device) -> None:
        """Start one more managed worker."""
        worker = ManagedWorker(config, device, self._shared)
        self.workers.append(worker)
        self._tasks.append(self._spawn_task(worker.run(), f"worker {worker.id}"))

    async def stop(self) -> None:
        """Let idle workers exit by themselves, then kill those that did not."""
        for worker in self.workers:
            worker.stopping = True
        self._broadcast(Drain())
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=EXIT_TIMEOUT_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def ready(self) -> ModelInfo | None:
        """The engine of a ready worker; None if no worker is ready."""
        return next((worker.ready for worker in self.workers if worker.ready), None)

    def _update_accepting(self) -> None:
        accepting = any(worker.state in ("ready", "restarting") for worker in self.workers)
        self._dispatcher.set_accepting(accepting)
