"""`/metrics` for Prometheus: counters of `Metrics`, and gauges read at the moment of a scrape."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar, get_args

from fastapi import APIRouter, Request
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.responses import Response

from app import __version__
from app.backend.base import BackendStatus, WorkerState
from app.core.audio import SAMPLE_RATE
from app.http.dependencies import AppState, State
from app.observability.system_stats import Gpu, Process, gpu_load, process_load

PATH = "/metrics"

router = APIRouter(tags=["system"])


@router.get(
    PATH,
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"description": "Every metric, explained.", "content": {"text/plain": {}}}},
)
async def metrics(request: Request, state: State) -> Response:
    """In Prometheus' text format, or OpenMetrics if the Accept header allows it."""
    status = state.backend.status()
    pids = {worker.id: worker.pid for worker in status.workers if worker.pid}
    gpus, workers = await asyncio.to_thread(lambda: (gpu_load(), _loads(pids)))
    encode, content_type = _choose_encoder(request.headers.get("accept", ""))
    content = encode(_Scrape(state, state.backend.status(), gpus, workers))
    return Response(content, headers={"Content-Type": content_type, "Cache-Control": "no-store"})


def _choose_encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    """Return an encoder and its media type; the text format for a malformed `Accept` header."""
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # a malformed version
        return choose_encoder("")


def _loads(pids: Mapping[str, int]) -> dict[str, Process]:
    """Read the load of each process that still exists."""
    loads = {worker: process_load(pid) for worker, pid in pids.items()}
    return {worker: load for worker, load in loads.items() if load}


class _Scrape(Collector):
    """The content of one response."""

    def __init__(
        self,
        state: AppState,
        status: BackendStatus,
        gpus: list[Gpu],
        workers: Mapping[str, Process],
    ) -> None:
        self._state = state
        self._status = status
        self._gpus = gpus
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        yield from self._state.metrics.registry.collect()
        yield from self._service()
        yield from self._jobs()
        yield from self._worker_states()
        yield from self._processes()
        if self._gpus:
            yield from self._devices()

    def _service(self) -> Iterator[Metric]:
        build = InfoMetricFamily("tts_build", "The version of this service, and its model.")
        build.add_metric([], {"version": __version__, "model": self._status.model})
        yield build
        ready = self._status.state == "ready"
        yield GaugeMetricFamily("tts_ready", "1 if the service is ready, as /ready reports.", ready)
        voices = len(self._state.voices.snapshot())
        yield GaugeMetricFamily("tts_voices", "Voices that requests can name.", voices)

    def _jobs(self) -> Iterator[Metric]:
        jobs = self._status.queue
        yield GaugeMetricFamily(
            "tts_queue_waiting_jobs", "Jobs that wait for a worker.", jobs.waiting
        )
        yield GaugeMetricFamily(
            "tts_queue_limit_jobs", "Jobs that may wait; more are refused with 429.", jobs.limit
        )
        yield GaugeMetricFamily("tts_running_jobs", "Running jobs.", jobs.running)
        yield CounterMetricFamily(
            "tts_job_retries", "Jobs requeued because their worker exited.", jobs.retries
        )
        yield CounterMetricFamily(
            "tts_audio_seconds", "Audio that workers have made.", jobs.samples / SAMPLE_RATE
        )

    def _worker_states(self) -> Iterator[Metric]:
        workers = self._status.workers
        state = GaugeMetricFamily(
            "tts_worker_state", "1 for the state that the worker is in.", labels=["worker", "state"]
        )
        for worker in workers:
            for each in get_args(WorkerState):
                state.add_metric([worker.id, each], each == worker.state)
        yield state
        yield _filled(
            GaugeMetricFamily(
                "tts_worker_slots", "Jobs that the worker takes at a time.", labels=["worker"]
            ),
            ((worker.id, worker.slots) for worker in workers),
        )
        yield _filled(
            GaugeMetricFamily(
                "tts_worker_busy_slots", "Slots of the worker that have a job.", labels=["worker"]
            ),
            ((worker.id, worker.busy) for worker in workers),
        )
        yield _filled(
            CounterMetricFamily(
                "tts_worker_restarts",
                "Times that the worker's process had to be replaced.",
                labels=["worker"],
            ),
            ((worker.id, worker.restarts) for worker in workers),
        )
        yield _filled(
            CounterMetricFamily(
                "tts_worker_runaways",
                "Text chunks cut at the length limit.",
                labels=["worker"],
            ),
            ((worker.id, worker.runaways) for worker in workers),
        )

    def _processes(self) -> Iterator[Metric]:
        workers = self._workers.items()
        yield _filled(
            CounterMetricFamily(
                "tts_worker_cpu_seconds",
                "CPU time of the worker's present process.",
                labels=["worker"],
            ),
            ((worker, load.cpu_s) for worker, load in workers),
        )
        yield _filled(
            GaugeMetricFamily(
                "tts_worker_resident_memory_bytes",
                "Memory of the worker's process.",
                labels=["worker"],
            ),
            ((worker, load.memory) for worker, load in workers),
        )

    def _devices(self) -> Iterator[Metric]:
        gpus = [(f"gpu{gpu.device_id}", gpu) for gpu in self._gpus]
        yield _filled(
            GaugeMetricFamily(
                "tts_gpu_memory_used_bytes",
                "Memory of the GPU that is in use, by all programs.",
                labels=["device"],
            ),
            ((name, gpu.memory_gb.used) for name, gpu in gpus),
        )
        yield _filled(
            GaugeMetricFamily(
                "tts_gpu_memory_total_bytes", "Memory of the GPU.", labels=["device"]
            ),
            ((name, gpu.memory_gb.total) for name, gpu in gpus),
        )
        yield _filled(
            GaugeMetricFamily(
                "tts_gpu_utilization_ratio",
                "Share of the time in which the GPU ran a kernel, 0 to 1.",
                labels=["device"],
            ),
            ((name, gpu.utilization_percent.gpu / 100) for name, gpu in gpus),
        )


Family = TypeVar("Family", GaugeMetricFamily, CounterMetricFamily)


def _filled(metric: Family, rows: Iterable[tuple[str, float]]) -> Family:
    """Add a value per label."""
    for label, value in rows:
        metric.add_metric([label], value)
    return metric
