"""`/metrics` for Prometheus: counters of `Metrics`, and gauges read at the moment of a scrape."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias, TypeVar, get_args

from fastapi import APIRouter, Request
from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import InfoMetricFamily as Info
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.responses import Response

from app import __version__
from app.backend.base import BackendStatus, QueueStatus, WorkerState, WorkerStatus
from app.core.audio import SAMPLE_RATE
from app.core.log import dropped_lines
from app.http.dependencies import AppState, get_state
from app.observability.system_stats import Gpu, Process, gpu_load, process_load
from app.protocols.native.negotiation import MAX_ACCEPT_LENGTH

PATH = "/metrics"

router = APIRouter(tags=["system"])

T = TypeVar("T")
Table: TypeAlias = tuple[tuple[type[Gauge | Counter], str, str, Callable[[T], float]], ...]
"""Of metrics with one label: type, name, description, and the value of a labelled object."""

_OF_WORKERS: Table[WorkerStatus] = (
    (Gauge, "tts_worker_slots", "Jobs that the worker takes at a time.", lambda it: it.slots),
    (Gauge, "tts_worker_busy_slots", "Slots of the worker that have a job.", lambda it: it.busy),
    (
        Counter,
        "tts_worker_restarts",
        "Times that the worker's process had to be replaced.",
        lambda it: it.restarts,
    ),
    (
        Counter,
        "tts_worker_runaways",
        "Text chunks cut at the length limit.",
        lambda it: it.runaways,
    ),
)

_OF_MODELS: Table[BackendStatus] = (
    (
        Gauge,
        "tts_model_ready",
        "1 if a worker of the model is ready, or starts when it is asked for.",
        lambda it: it.state == "ready",
    ),
    (
        Gauge,
        "tts_model_waiting_jobs",
        "Jobs that wait for a worker of the model.",
        lambda it: it.queue.waiting,
    ),
    (Gauge, "tts_model_running_jobs", "Running jobs of the model.", lambda it: it.queue.running),
)

_OF_PROCESSES: Table[Process] = (
    (
        Counter,
        "tts_worker_cpu_seconds",
        "CPU time of the worker's present process.",
        lambda it: it.cpu_s,
    ),
    (
        Gauge,
        "tts_worker_resident_memory_bytes",
        "Memory of the worker's process.",
        lambda it: it.memory,
    ),
)

_OF_GPUS: Table[Gpu] = (
    (
        Gauge,
        "tts_gpu_memory_used_bytes",
        "Memory of the GPU that is in use, by all programs.",
        lambda it: it.memory_gb.used,
    ),
    (Gauge, "tts_gpu_memory_total_bytes", "Memory of the GPU.", lambda it: it.memory_gb.total),
    (
        Gauge,
        "tts_gpu_utilization_ratio",
        "Share of the time in which the GPU ran a kernel, 0 to 1.",
        lambda it: it.utilization_percent.gpu / 100,
    ),
)


@router.get(
    PATH,
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"description": "Every metric, explained.", "content": {"text/plain": {}}}},
)
async def metrics(request: Request) -> Response:
    """In Prometheus' text format, or OpenMetrics if the Accept header allows it."""
    state = get_state(request)
    pids = {worker.id: worker.pid for worker in state.backend.status().workers if worker.pid}
    gpus, processes = await gpu_load(), await asyncio.to_thread(_loads, pids)
    encode, content_type = _choose_encoder(request.headers.get("accept", "")[:MAX_ACCEPT_LENGTH])
    content = encode(_Scrape(state, gpus, processes))
    return Response(content, headers={"Content-Type": content_type, "Cache-Control": "no-store"})


def _choose_encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    """Return an encoder and its media type; the text format for a malformed `Accept` header."""
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # a malformed version
        return choose_encoder("")


def _loads(pids: Mapping[str, int]) -> dict[str, Process]:
    return {worker: load for worker, pid in pids.items() if (load := process_load(pid))}


class _Scrape(Collector):
    """The content of one response."""

    def __init__(self, state: AppState, gpus: list[Gpu], processes: Mapping[str, Process]) -> None:
        self._state = state
        self._gpus = {f"gpu{gpu.device_id}": gpu for gpu in gpus}
        self._processes = processes

    def collect(self) -> Iterator[Metric]:
        status = self._state.backend.status()
        yield from self._state.metrics.registry.collect()
        yield from _service(status, len(self._state.voices.snapshot.ids))
        yield from _jobs(status.queue)
        yield from _labelled("model", _OF_MODELS, {each.model: each for each in status.by_model})
        yield _worker_states(status.workers)
        yield from _labelled("worker", _OF_WORKERS, {each.id: each for each in status.workers})
        yield from _labelled("worker", _OF_PROCESSES, self._processes)
        if self._gpus:
            yield from _labelled("device", _OF_GPUS, self._gpus)


def _service(status: BackendStatus, voices: int) -> Iterator[Metric]:
    build = Info("tts_build", "The version of this service, and its model.")
    build.add_metric([], {"version": __version__, "model": status.model})
    yield build
    ready = status.state == "ready"
    yield Gauge("tts_ready", "1 if the service is ready, as /ready reports.", ready)
    yield Gauge("tts_voices", "Voices that requests can name.", voices)
    yield Counter(
        "tts_log_lines_dropped",
        "Lines of the log that were not written, since nobody read them fast enough.",
        dropped_lines(),
    )


def _jobs(jobs: QueueStatus) -> Iterator[Metric]:
    yield Gauge("tts_queue_waiting_jobs", "Jobs that wait for a worker.", jobs.waiting)
    yield Gauge(
        "tts_queue_limit_jobs", "Jobs that may wait; more are refused with 429.", jobs.limit
    )
    yield Gauge("tts_running_jobs", "Running jobs.", jobs.running)
    yield Gauge(
        "tts_preempted_jobs",
        "Jobs far ahead of their clients, which gave their slots to others.",
        jobs.preempted,
    )
    yield Counter("tts_job_retries", "Jobs requeued because their worker exited.", jobs.retries)
    audio_s = jobs.samples / SAMPLE_RATE
    yield Counter("tts_audio_seconds", "Audio that workers have made.", audio_s)


def _worker_states(workers: tuple[WorkerStatus, ...]) -> Metric:
    labels = ["worker", "state"]
    states = Gauge("tts_worker_state", "1 for the state that the worker is in.", labels=labels)
    for worker in workers:
        for state in get_args(WorkerState):
            states.add_metric([worker.id, state], state == worker.state)
    return states


def _labelled(label: str, table: Table[T], objects: Mapping[str, T]) -> Iterator[Metric]:
    for kind, name, description, value_of in table:
        metric = kind(name, description, labels=[label])
        for key, each in objects.items():
            metric.add_metric([key], value_of(each))
        yield metric
