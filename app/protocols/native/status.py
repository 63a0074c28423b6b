"""`/system-status`: CPU, memory, GPUs, workers and queue."""

import asyncio
import json
from collections import Counter

import msgspec
from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from app.backend.base import BackendStatus, QueueStatus, ServiceState, WorkerStatus
from app.http.dependencies import get_state
from app.http.openapi import json_response
from app.observability.system_stats import Cpu, Gpu, cpu_load, gpu_load
from app.voices.snapshot import VoiceSnapshot

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
        "state": "ready",
        "workers": 2,
        "waiting": 0,
        "running": 1,
        "voices": {"austen.wav": {"prepared": 2, "workers": 2}}
    }]
}""")


class PreparedVoice(BaseModel):
    prepared: int
    workers: int


class ModelStatus(BaseModel):
    id: str
    state: ServiceState
    workers: int
    waiting: int
    running: int
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
    response_model=SystemStatus,
    responses=json_response(_EXAMPLE),
)
async def system_status(request: Request) -> Response:
    """The load of the machine, and the state of workers and queue."""
    state = get_state(request)
    gpus = await gpu_load()
    status, voices = state.backend.status(), state.voices.snapshot
    content = await asyncio.to_thread(_status_json, status, gpus, voices)  # thousands, perhaps
    return Response(content, media_type="application/json")


def _status_json(status: BackendStatus, gpus: list[Gpu], voices: VoiceSnapshot) -> bytes:
    system_status = SystemStatus(
        cpu=cpu_load(),
        gpus=gpus,
        workers=list(status.workers),
        queue=status.queue,
        models=[_model_status(model) for model in status.by_model],
    )
    content = system_status.model_dump(mode="json")
    for shown, model in zip(content["models"], status.by_model, strict=True):
        shown["voices"] = _prepared_voices(model, voices)  # pydantic takes long
    return msgspec.json.encode(content)


def _model_status(status: BackendStatus) -> ModelStatus:
    return ModelStatus(
        id=status.model,
        state=status.state,
        workers=len(status.workers),
        waiting=status.queue.waiting,
        running=status.queue.running,
        voices={},
    )


def _prepared_voices(status: BackendStatus, voices: VoiceSnapshot) -> dict[str, dict[str, int]]:
    """Count for each voice id the workers that have its digest prepared."""
    workers = len(status.workers)
    rows = [{"prepared": prepared, "workers": workers} for prepared in range(workers + 1)]
    prepared = Counter(digest for worker in status.workers for digest in worker.prepared_voices)
    return {voice_id: rows[prepared[voices.digests[voice_id]]] for voice_id in voices.ids}
