"""One model on this machine: its queue, and its worker processes on the devices.

It lets the dispatcher accept jobs while a worker is ready or restarting.
"""

import asyncio
from typing import Any

import msgspec
import zmq

from app.backend.base import (
    BackendStatus,
    JobRequest,
    QueueStatus,
    ServiceState,
    WorkerStatus,
)
from app.backend.job_stream import JobStream
from app.backend.local.dispatcher import Dispatcher, Limits
from app.backend.local.managed_worker import ManagedWorker, WorkerContext
from app.backend.local.runtime_dir import RuntimeDir
from app.backend.local.slots import auto_slots
from app.backend.local.voice_tracker import VoiceTracker
from app.core.audio import SAMPLE_RATE
from app.core.background import BackgroundTasks
from app.core.cpu import cpu_count
from app.core.devices import Device, detect
from app.core.errors import Draining, NotReady
from app.core.model import Model, ModelInfo
from app.core.process_env import visible_cuda_devices
from app.core.running_time import running_time
from app.ipc.channels import Broadcaster, broadcast_address
from app.ipc.messages import Drain, WorkerConfig
from app.observability.metrics import Metrics
from app.settings import Settings

REPEAT_STATE_S = 0.5
"""Half a second, so that a lost broadcast takes effect within a second."""

EXIT_TIMEOUT_S = 2.0


class LocalBackend:
    """Implements `backend.base.Backend` for one model.

    `runtime_dir.channels` is this backend's own. `prefix`: of its workers' names, which are to
    differ from those of other models on this machine; empty if this is the only one. `num_models`:
    those that share the devices.
    """

    def __init__(
        self,
        settings: Settings,
        model: Model,
        runtime_dir: RuntimeDir,
        metrics: Metrics,
        background: BackgroundTasks,
        prefix: str = "",
        num_models: int = 1,
    ) -> None:
        self._settings = settings
        self._model = model
        self._info = model.info
        self._prefix = prefix
        self._num_models = num_models
        self._runtime_dir = runtime_dir
        self._spawn_task = background.spawn
        self._repeating: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.workers: list[ManagedWorker] = []
        self._context: zmq.Context[Any] = zmq.Context()
        self._broadcaster = Broadcaster(self._context, broadcast_address(runtime_dir.channels))
        limits = Limits(
            settings.max_queued_requests,
            settings.queue_timeout_seconds,
            int(settings.max_ahead_seconds * SAMPLE_RATE),
            settings.client_stall_seconds,
        )
        self._voices = VoiceTracker(self._broadcaster.send)
        self._idle_since = running_time()
        self._dispatcher = Dispatcher(limits, self._voices, self._broadcaster.send, metrics)

    def start(self) -> None:
        """Start the workers; `stop` is to follow, also if this raises."""
        self._repeating = self._spawn_task(self._repeat_state(), "repeat state")
        self.start_workers(detect(visible_cuda_devices()))

    async def stop(self) -> None:
        """Stop the workers, if there are any, and close the channels."""
        if self._repeating:
            self._repeating.cancel()
        await self.stop_workers()
        self._broadcaster.close()
        self._context.term()

    # --- Backend --------------------------------------------------------------------------------

    def submit(self, job: JobRequest) -> JobStream:
        stream = self._dispatcher.submit(job)
        for worker in self.workers:
            worker.load()
        return stream

    def ensure_accepting(self, model: str | None = None) -> None:
        self._dispatcher.ensure_accepting()

    def ensure_room(self, model: str | None = None) -> None:
        self._dispatcher.ensure_room()

    def ensure_ready(self) -> None:
        if self._dispatcher.draining:
            raise Draining("the server is shutting down")
        if not (self.ready or self._dispatcher.unloaded):
            raise NotReady(f"no worker is ready{self._startup_phase()}")

    @property
    def models(self) -> tuple[ModelInfo]:
        return (self._info,)

    @property
    def ready(self) -> ModelInfo | None:
        """What a ready worker says of its engine; None if no worker is ready."""
        return next((worker.ready for worker in self.workers if worker.ready), None)

    def status(self) -> BackendStatus:
        dispatcher = self._dispatcher
        return BackendStatus(
            state=self._state(),
            model=self._info.name.rpartition(":")[2],  # an engine's class, until it is loaded
            workers=tuple(self._worker_status(worker) for worker in self.workers),
            queue=QueueStatus(
                waiting=dispatcher.waiting,
                running=dispatcher.running,
                limit=self._settings.max_queued_requests,
                retries=dispatcher.retries,
                samples=dispatcher.samples,
                preempted=dispatcher.preempted,
            ),
        )

    def set_voices(self, digests: frozenset[str]) -> None:
        self._voices.set_voices(digests)

    async def drain(self, grace_s: float) -> None:
        self._dispatcher.drain()
        try:
            await asyncio.wait_for(self._dispatcher.wait_idle(), grace_s)
        except TimeoutError:
            self._dispatcher.abort()

    def abort(self) -> None:
        self._dispatcher.abort()

    # --- private --------------------------------------------------------------------------------

    def _state(self) -> ServiceState:
        if self._dispatcher.draining:
            return "draining"
        if self.ready or self._dispatcher.unloaded:
            return "ready"
        starting = any(worker.state == "starting" for worker in self.workers)
        return "starting" if starting else "degraded"

    def _startup_phase(self) -> str:
        """Describe the first worker that is starting: ": worker cpu.0 loads the model"."""
        for worker in self.workers:
            if worker.state in ("starting", "restarting"):
                return f": worker {worker.id} {worker.startup_phase}"
        return ""

    def start_workers(self, devices: list[Device]) -> None:
        shared = WorkerContext(
            self._context, self._dispatcher, self._voices, self._settings, self._worker_changed
        )
        per_device = self._settings.workers_per_device
        # Not divided by the number of models: mostly one of them speaks, and needs all cores.
        threads = max(1, cpu_count() // (len(devices) * per_device))
        for device in devices:
            slots = self._slots(device)
            for number in range(per_device):
                name = f"{self._prefix}{device.name}.{number}"
                config = self._worker_config(name, device.kind, threads, slots)
                worker = ManagedWorker(config, device, shared)
                self.workers.append(worker)
                self._tasks.append(self._spawn_task(worker.run(), f"worker {worker.id}"))

    def _slots(self, device: Device) -> int:
        setting = self._settings.concurrent_requests_per_worker
        if setting != "auto":
            return setting
        workers = self._num_models * self._settings.workers_per_device
        return auto_slots(self._model, device, workers)

    async def stop_workers(self) -> None:
        """Let idle workers exit by themselves, then kill those that did not."""
        for worker in self.workers:
            worker.stop()
        self._broadcaster.send(Drain())
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=EXIT_TIMEOUT_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _worker_changed(self) -> None:
        if ready := self.ready:
            aliases = {self._model.name, *self._model.info.aliases} - {ready.name}
            self._info = msgspec.structs.replace(ready, aliases=tuple(sorted(aliases)))
        states = {worker.state for worker in self.workers}
        self._dispatcher.set_accepting(
            bool(states & {"ready", "restarting", "idle"}),
            worker_expected=bool(states & {"starting", "restarting"}),
        )

    def _worker_config(self, name: str, device_kind: str, threads: int, slots: int) -> WorkerConfig:
        settings = self._settings
        return WorkerConfig(
            name=name,
            incarnation=0,
            engine=self._model.engine,
            engine_config=self._model.engine_config(
                settings.engine_config(device_kind, threads, slots)
            ),
            queues=settings.queue_sizes(),
            channels_dir=str(self._runtime_dir.channels),
            voices_dir=str(self._runtime_dir.voices),
            log_level=settings.effective_log_level,
        )

    async def _repeat_state(self) -> None:
        while True:
            await asyncio.sleep(REPEAT_STATE_S)
            self._broadcaster.repair()
            self._dispatcher.tick()
            self._voices.repeat()
            self._unload_if_idle()

    def _unload_if_idle(self) -> None:
        """End the workers of a model that had no job for `MODEL_IDLE_SECONDS`."""
        limit_s, now = self._settings.model_idle_seconds, running_time()
        all_ready = all(worker.state == "ready" for worker in self.workers)
        if not (limit_s and all_ready and self._dispatcher.idle and not self._voices.preparing):
            self._idle_since = now
        elif now - self._idle_since >= limit_s:
            self._dispatcher.unloaded = True
            for worker in self.workers:
                worker.unload()

    def _worker_status(self, worker: ManagedWorker) -> WorkerStatus:
        return WorkerStatus(
            id=worker.id,
            device=worker.device.name,
            state=worker.state,
            slots=worker.slots,
            busy=worker.busy,
            restarts=worker.restarts,
            pid=worker.pid,
            last_error=worker.last_error,
            compiled=bool(worker.ready and worker.ready.compiled),
            notice=worker.ready.notice if worker.ready else None,
            runaways=worker.runaways,
            prepared_voices=self._voices.prepared(worker.id),
        )
