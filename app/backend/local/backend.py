"""The backend of one machine: a worker process for each slot on each of its devices.

Composes channels, dispatcher and supervisor, which start in this order and stop in the other.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import zmq

from app.backend.base import (
    BackendStatus,
    JobRequest,
    JobStream,
    ModelInfo,
    QueueStatus,
    ServiceState,
    WorkerStatus,
)
from app.backend.local.dispatcher import Dispatcher, Limits
from app.backend.local.runtime_dir import RuntimeFolder
from app.backend.local.supervisor import Policy, Seat, Supervisor
from app.core.audio import SAMPLE_RATE
from app.core.background import BackgroundTasks
from app.core.devices import Device, detect
from app.core.errors import Draining, NotReady
from app.core.process_env import cpu_count, visible_cuda_devices
from app.ipc.channels import Broadcaster, broadcast_address
from app.ipc.messages import Voices, WorkerConfig, WorkerReady
from app.observability.metrics import Metrics
from app.settings import Settings

REPEAT_STATE_S = 0.5
"""A lost broadcast is repeated in time for its effect to show within a second."""


class LocalBackend:
    """Implements `backend.base.Backend` by worker processes and ZeroMQ; `model`: their engine."""

    def __init__(
        self,
        settings: Settings,
        model: str,
        folder: RuntimeFolder,
        metrics: Metrics,
        background: BackgroundTasks,
    ) -> None:
        self._settings = settings
        self._model = model
        self._folder = folder
        self._context: zmq.Context[Any] = zmq.Context()
        self._broadcaster = Broadcaster(self._context, broadcast_address(folder.channels))
        self._voices: frozenset[str] | None = None
        self._background = background
        limits = Limits(
            settings.max_queued_requests,
            settings.queue_timeout_seconds,
            int(settings.max_ahead_seconds * SAMPLE_RATE),
            settings.client_stall_seconds,
        )
        self._dispatcher = Dispatcher(limits, self._broadcaster.send, metrics)
        policy = Policy(
            settings.concurrent_requests_per_worker,
            settings.worker_start_seconds,
            settings.worker_stall_seconds,
        )
        self._supervisor = Supervisor(
            self._context,
            self._dispatcher,
            self._broadcaster.send,
            policy,
            self._background.spawn,
        )

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        settings: Settings,
        model: str,
        folder: RuntimeFolder,
        metrics: Metrics,
        background: BackgroundTasks,
    ) -> AsyncIterator["LocalBackend"]:
        """Workers start on entry and are gone on exit."""
        backend = cls(settings, model, folder, metrics, background)
        try:
            backend._start_workers(detect(visible_cuda_devices()))
            repeating = background.spawn(backend._repeat_state(), "repeat state")
            try:
                yield backend
            finally:
                repeating.cancel()
        finally:
            await backend._supervisor.stop()
            backend._broadcaster.close()
            backend._context.term()

    # --- Backend --------------------------------------------------------------------------------

    def submit(self, job: JobRequest) -> JobStream:
        return self._dispatcher.submit(job.request_id, job.text, job.voice, job.params)

    def ensure_accepting(self) -> None:
        self._dispatcher.ensure_accepting()

    def ensure_ready(self) -> None:
        if self._dispatcher.draining:
            raise Draining("the server is shutting down")
        if not self._supervisor.ready:
            raise NotReady(f"no worker is ready{self._startup_phase()}")

    @property
    def ready(self) -> ModelInfo | None:
        ready = self._supervisor.ready
        return _model_info(ready) if ready else None

    def status(self) -> BackendStatus:
        dispatcher, slots = self._dispatcher, self._settings.concurrent_requests_per_worker
        return BackendStatus(
            state=self._state(),
            model=self._model,
            workers=tuple(_worker_status(seat, slots) for seat in self._supervisor.seats),
            queue=QueueStatus(
                waiting=dispatcher.waiting,
                running=dispatcher.running,
                limit=dispatcher.limit,
                retries=dispatcher.retries,
                samples=dispatcher.samples,
            ),
        )

    def set_voices(self, digests: frozenset[str]) -> None:
        self._voices = digests
        self._broadcaster.send(Voices(digests))

    async def drain(self, grace_s: float) -> None:
        self._dispatcher.drain()
        try:
            await asyncio.wait_for(self._dispatcher.idle(), grace_s)
        except TimeoutError:
            self._dispatcher.abort()

    def abort(self) -> None:
        self._dispatcher.abort()

    # --- inside ---------------------------------------------------------------------------------

    def _state(self) -> ServiceState:
        if self._dispatcher.draining:
            return "draining"
        if self._supervisor.ready:
            return "ready"
        starting = any(seat.state == "starting" for seat in self._supervisor.seats)
        return "starting" if starting else "degraded"

    def _startup_phase(self) -> str:
        """For the first worker that is starting: ": worker cpu.0 loads the model"."""
        for seat in self._supervisor.seats:
            if seat.state in ("starting", "restarting"):
                return f": worker {seat.id} {seat.doing}"
        return ""

    def _start_workers(self, devices: list[Device]) -> None:
        per_device = self._settings.workers_per_device
        threads = max(1, cpu_count() // (len(devices) * per_device))
        for device in devices:
            for number in range(per_device):
                config = self._worker_config(f"{device.name}.{number}", device.kind, threads)
                self._supervisor.start(config, device)

    def _worker_config(self, name: str, device_kind: str, threads: int) -> WorkerConfig:
        settings = self._settings
        return WorkerConfig(
            name=name,
            incarnation=0,
            engine=self._model,
            engine_config=settings.engine_config(
                device_kind, threads, settings.concurrent_requests_per_worker
            ),
            queues=settings.queue_sizes(),
            channels=str(self._folder.channels),
            voices=str(self._folder.voices),
            log_level=settings.effective_log_level,
        )

    async def _repeat_state(self) -> None:
        while True:
            await asyncio.sleep(REPEAT_STATE_S)
            self._dispatcher.tick()
            if self._voices is not None:
                self._broadcaster.send(Voices(self._voices))


def _model_info(ready: WorkerReady) -> ModelInfo:
    return ModelInfo(ready.model, ready.clones_voices, ready.compiled, ready.notice)


def _worker_status(seat: Seat, slots: int) -> WorkerStatus:
    return WorkerStatus(
        id=seat.id,
        device=seat.device.name,
        state=seat.state,
        slots=slots,
        busy=seat.busy,
        restarts=seat.restarts,
        pid=seat.pid,
        last_error=seat.last_error,
        runaways=seat.runaways,
        model=_model_info(seat.ready) if seat.ready else None,
        startup_phase=seat.doing,
    )
