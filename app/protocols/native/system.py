"""`/system-status`, `/health`, `/ready`, `/ping`: how the service is."""

import asyncio
from collections import Counter

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from app import __version__
from app.backend.base import BackendStatus, ServiceState, WorkerStatus
from app.core.errors import Draining, NotReady
from app.http.dependencies import State
from app.http.error_handlers import documented
from app.http.openapi import HEALTH, SYSTEM_STATUS, answer
from app.observability.system_stats import Cpu, Gpu, cpu_load, gpu_load

router = APIRouter(tags=["system"])
probes = APIRouter(tags=["system"])
"""What `PORT_HEALTH` serves too."""


class WorkerRow(BaseModel):
    id: str
    device: str
    state: str
    slots: int
    busy: int
    restarts: int
    pid: int | None
    last_error: str | None
    compiled: bool
    notice: str | None
    runaways: int


class QueueRow(BaseModel):
    waiting: int
    running: int
    limit: int
    retries: int


class VoiceRow(BaseModel):
    prepared: int
    workers: int


class ModelRow(BaseModel):
    id: str
    workers: int
    voices: dict[str, VoiceRow]


class SystemStatus(BaseModel):
    cpu: Cpu
    gpus: list[Gpu]
    workers: list[WorkerRow]
    queue: QueueRow
    models: list[ModelRow]


class Health(BaseModel):
    status: ServiceState
    model: str
    version: str
    compiled: bool
    notice: str | None = None


@router.get(
    "/system-status",
    summary="CPU, memory, GPUs, workers, queue",
    responses=answer(SYSTEM_STATUS),
)
async def system_status(state: State) -> SystemStatus:
    """Measured in a thread: the drivers may take their time."""
    cpu, gpus = await asyncio.to_thread(lambda: (cpu_load(), gpu_load()))
    status = state.backend.status()
    return SystemStatus(
        cpu=cpu,
        gpus=gpus,
        workers=[_worker_row(worker) for worker in status.workers],
        queue=QueueRow(
            waiting=status.queue.waiting,
            running=status.queue.running,
            limit=status.queue.limit,
            retries=status.queue.retries,
        ),
        models=[_model_row(status, state.voices.snapshot())],
    )


@probes.get("/health", summary="The process is alive", responses=answer(HEALTH))
@probes.head("/health", include_in_schema=False)
async def health(state: State) -> Health:
    """200 whatever `status` says."""
    status = state.backend.status()
    ready = [worker.model for worker in status.workers if worker.model]
    return Health(
        status=status.state,
        model=status.model,
        version=__version__,
        compiled=bool(ready) and all(model.compiled for model in ready),
        notice=next((model.notice for model in ready if model.notice), None),
    )


@probes.get(
    "/ready",
    summary="Speech can be had",
    responses=answer({"status": "ready"}) | documented(NotReady, Draining),
)
@probes.head("/ready", include_in_schema=False)
async def ready(state: State) -> dict[str, str]:
    """200 when a worker is warm and every voice present at start is prepared, else 503."""
    state.backend.ensure_ready()
    return {"status": "ready"}


@probes.get(
    "/ping",
    summary="For RunPod's load balancer",
    response_class=Response,
    responses={204: {"description": "Starting, or no worker is left."}},
)
@probes.head("/ping", include_in_schema=False)
async def ping(state: State) -> Response:
    """200 when ready, 204 while starting."""
    try:
        state.backend.ensure_ready()
    except (Draining, NotReady):
        return Response(status_code=204)
    return Response(status_code=200)


def _model_row(status: BackendStatus, voices: dict[str, str]) -> ModelRow:
    """Count for each voice id the workers that have its digest prepared."""
    workers = len(status.workers)
    prepared = Counter(digest for worker in status.workers for digest in worker.prepared_voices)
    rows = {
        voice_id: VoiceRow(prepared=prepared[digest], workers=workers)
        for voice_id, digest in sorted(voices.items())
    }
    return ModelRow(id=status.model, workers=workers, voices=rows)


def _worker_row(worker: WorkerStatus) -> WorkerRow:
    return WorkerRow(
        id=worker.id,
        device=worker.device,
        state=worker.state,
        slots=worker.slots,
        busy=worker.busy,
        restarts=worker.restarts,
        pid=worker.pid,
        last_error=worker.last_error,
        compiled=bool(worker.model and worker.model.compiled),
        notice=worker.model.notice if worker.model else None,
        runaways=worker.runaways,
    )
