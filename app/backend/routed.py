"""Several models behind one `Backend`: each has one of its own, with a queue and workers."""

import asyncio
from collections.abc import Sequence

from app.backend.base import Backend, BackendStatus, JobRequest, QueueStatus, ServiceState
from app.backend.job_stream import JobStream
from app.core.errors import ServiceError
from app.core.model import ModelInfo


class RoutedBackend:
    """Implements `backend.base.Backend`; each of `backends` has one model, the first the default.

    It is ready when one of them is.
    """

    def __init__(self, backends: Sequence[Backend]) -> None:
        self._backends = backends

    @property
    def models(self) -> Sequence[ModelInfo]:
        return [model for backend in self._backends for model in backend.models]

    def submit(self, job: JobRequest) -> JobStream:
        return self._backend_of(job.model).submit(job)

    def ensure_accepting(self, model: str | None = None) -> None:
        self._backend_of(model).ensure_accepting(model)

    def ensure_room(self, model: str | None = None) -> None:
        self._backend_of(model).ensure_room(model)

    def ensure_ready(self) -> None:
        refusals: list[ServiceError] = []
        for backend in self._backends:
            try:
                backend.ensure_ready()
            except ServiceError as error:
                refusals.append(error)
            else:
                return
        raise refusals[0]

    def status(self) -> BackendStatus:
        statuses = tuple(backend.status() for backend in self._backends)
        return BackendStatus(
            state=_state_of([status.state for status in statuses]),
            model=statuses[0].model,
            workers=tuple(worker for status in statuses for worker in status.workers),
            queue=_sum_of([status.queue for status in statuses]),
            models=statuses,
        )

    def set_voices(self, digests: frozenset[str]) -> None:
        for backend in self._backends:
            backend.set_voices(digests)

    async def drain(self, grace_s: float) -> None:
        await asyncio.gather(*(backend.drain(grace_s) for backend in self._backends))

    def abort(self) -> None:
        for backend in self._backends:
            backend.abort()

    def _backend_of(self, model: str | None) -> Backend:
        """The backend of a model that `find_model` has found."""
        for backend in self._backends:
            if model is not None and model in backend.models[0].names:
                return backend
        return self._backends[0]


def _state_of(states: Sequence[ServiceState]) -> ServiceState:
    best: Sequence[ServiceState] = ("draining", "ready", "starting")
    return next((state for state in best if state in states), "degraded")


def _sum_of(queues: Sequence[QueueStatus]) -> QueueStatus:
    names = QueueStatus.model_fields
    return QueueStatus(**{name: sum(getattr(queue, name) for queue in queues) for name in names})
