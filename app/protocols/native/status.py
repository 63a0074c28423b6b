"""`/system-status`: CPU, memory, GPUs, workers and queue."""

import asyncio
import json
from collections import Counter

from fastapi import APIRouter, Request
from pydantic import BaseModel

from app.backend.base import BackendStatus, QueueStatus, WorkerStatus
from app.http.dependencies import get_state
from app.http.openapi import json_response
from app.observability.system_stats import Cpu, Gpu, cpu_load, gpu_load

router = APIRouter(tags=["system"])

_EXAMPLE = json.loads("""{
    "cpu": {
        "utilization_percent": 25.8,
        "ram_gb": {"total": 31.26, "used": 8.94, "free": 22.32, "percent_used": 28.6}
    },
    "gpus": [{
        "device_id": 0,
        "utilization_percent": {"gpu": 45, "memory": 28},
        "memory_gb": {"total": 15.75, "used": 3.15, "free": 12.6}
    }],
    "workers": [{
        "id": "gpu0.0", "device": "gpu0", "state": "ready", "slots": 1, "busy": 1, "restarts": 1,
        "pid": 42, "last_error": "the worker was killed by signal 9 (Killed)", "compiled": false,
        "notice": "not compiled: …", "runaways": 0
    }],
    "queue": {"waiting": 0, "running": 1, "limit": 100, "retries": 0},
    "models": [{
        "id": "chatterbox",
        "workers": 2,
        "voices": {"austen.wav": {"prepared": 2, "workers": 2}}
    }]
}""")


class PreparedVoice(BaseModel):
    prepared: int
    workers: int


class ModelStatus(BaseModel):
    id: str
    workers: int
    voices: dict[str, PreparedVoice]


class SystemStatus(BaseModel):
    cpu: Cpu
    gpus: list[Gpu]
    workers: list[WorkerStatus]
    queue: QueueStatus
    models: list[ModelStatus]


@router.get(
    "/system-status",
    summary="CPU, memory, GPUs, workers, queue",
    responses=json_response(_EXAMPLE),
)
async def system_status(request: Request) -> SystemStatus:
    """The load of the machine, and the state of workers and queue."""
    state = get_state(request)
    # in a thread, since the drivers may block
    cpu, gpus = await asyncio.to_thread(lambda: (cpu_load(), gpu_load()))
    status = state.backend.status()
    return SystemStatus(
        cpu=cpu,
        gpus=gpus,
        workers=list(status.workers),
        queue=status.queue,
        models=[_model_status(status, state.voices.snapshot())],
    )


def _model_status(status: BackendStatus, voices: dict[str, str]) -> ModelStatus:
    """Count for each voice id the workers that have its digest prepared."""
    workers = len(status.workers)
    prepared = Counter(digest for worker in status.workers for digest in worker.prepared_voices)
    rows = {
        voice_id: PreparedVoice(prepared=prepared[digest], workers=workers)
        for voice_id, digest in sorted(voices.items())
    }
    return ModelStatus(id=status.model, workers=workers, voices=rows)
