"""`/system-status`, `/health`, `/ready`, `/ping`: how the service is."""

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from app import __version__
from app.backend.local.supervisor import Seat
from app.core.errors import Draining, NotReady, ServerFault
from app.http.dependencies import Services, ServicesOf
from app.http.error_handlers import documented
from app.http.openapi import HEALTH, SYSTEM_STATUS, answer
from app.observability.system_stats import Cpu, Gpu, cpu_load, gpu_load

router = APIRouter(tags=["system"])
probes = APIRouter(tags=["system"])
"""What `PORT_HEALTH` serves too."""


class WorkerStatus(BaseModel):
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


class QueueStatus(BaseModel):
    waiting: int
    running: int
    limit: int
    retries: int


class SystemStatus(BaseModel):
    cpu: Cpu
    gpus: list[Gpu]
    workers: list[WorkerStatus]
    queue: QueueStatus


class Health(BaseModel):
    status: Literal["starting", "ready", "draining", "degraded"]
    model: str
    version: str
    compiled: bool
    notice: str | None = None


@router.get(
    "/system-status",
    summary="CPU, memory, GPUs, workers, queue",
    responses=answer(SYSTEM_STATUS),
)
async def system_status(services: ServicesOf) -> SystemStatus:
    """Measured in a thread: the drivers may take their time."""
    cpu, gpus = await asyncio.to_thread(lambda: (cpu_load(), gpu_load()))
    dispatcher, supervisor = services.master.dispatcher, services.master.supervisor
    slots = services.master.settings.concurrent_requests_per_worker
    return SystemStatus(
        cpu=cpu,
        gpus=gpus,
        workers=[_worker(seat, slots) for seat in supervisor.seats],
        queue=QueueStatus(
            waiting=dispatcher.waiting,
            running=dispatcher.running,
            limit=dispatcher.limit,
            retries=dispatcher.retries,
        ),
    )


@probes.get("/health", summary="The process is alive", responses=answer(HEALTH))
@probes.head("/health", include_in_schema=False)
async def health(services: ServicesOf) -> Health:
    """200 whatever `status` says."""
    ready = [seat.ready for seat in services.master.supervisor.seats if seat.ready]
    return Health(
        status=_status(services),
        model=services.master.model,
        version=__version__,
        compiled=bool(ready) and all(worker.compiled for worker in ready),
        notice=next((worker.notice for worker in ready if worker.notice), None),
    )


@probes.get(
    "/ready",
    summary="Speech can be had",
    responses=answer({"status": "ready"}) | documented(NotReady, Draining),
)
@probes.head("/ready", include_in_schema=False)
async def ready(services: ServicesOf) -> dict[str, str]:
    """200 when a worker is warm and every voice present at start is prepared, else 503."""
    if fault := why_not_ready(services):
        raise fault
    return {"status": "ready"}


@probes.get(
    "/ping",
    summary="For RunPod's load balancer",
    response_class=Response,
    responses={204: {"description": "Starting, or no worker is left."}},
)
@probes.head("/ping", include_in_schema=False)
async def ping(services: ServicesOf) -> Response:
    """200 when ready, 204 while starting."""
    return Response(status_code=204 if why_not_ready(services) else 200)


def why_not_ready(services: Services) -> ServerFault | None:
    """What `/ready` raises; None if speech can be had."""
    if services.master.dispatcher.draining:
        return Draining("the server is shutting down")
    if not services.master.supervisor.ready:
        return NotReady(f"no worker is ready{_what_starts(services.master.supervisor.seats)}")
    return None


def _what_starts(seats: Sequence[Seat]) -> str:
    """What is waited for, if anything is: ": worker cpu-0 loads the model"."""
    starting = [seat for seat in seats if seat.state in ("starting", "restarting")]
    return "".join(f": worker {seat.id} {seat.doing}" for seat in starting[:1])


def _status(services: Services) -> Any:
    seats = services.master.supervisor.seats
    if services.master.dispatcher.draining:
        return "draining"
    if services.master.supervisor.ready:
        return "ready"
    return "starting" if any(seat.state == "starting" for seat in seats) else "degraded"


def _worker(seat: Seat, slots: int) -> WorkerStatus:
    return WorkerStatus(
        id=seat.id,
        device=seat.device.name,
        state=seat.state,
        slots=slots,
        busy=seat.busy,
        restarts=seat.restarts,
        pid=seat.pid,
        last_error=seat.last_error,
        compiled=bool(seat.ready and seat.ready.compiled),
        notice=seat.ready.notice if seat.ready else None,
        runaways=seat.runaways,
    )
