"""Interface between the speech service and a backend that runs jobs on workers.

A `Backend` takes jobs and gives a `JobStream` for each. `backend.local` runs worker processes on
this machine. Modules above this one import no dispatcher, worker process or socket.
"""

from collections.abc import Set
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pydantic import BaseModel, Field, SkipValidation

from app.backend.job_stream import JobStream
from app.core.params import ENGLISH_ONLY, Languages, SynthesisParams

ServiceState = Literal["starting", "ready", "draining", "degraded"]
WorkerState = Literal["starting", "ready", "restarting", "failed", "stopped"]


@dataclass(frozen=True)
class JobRequest:
    """A checked text to synthesize. `voice`: digest of a decoded voice; None: the default one.

    `speed`: how many seconds of the job's audio the client hears in a second.
    """

    request_id: str
    text: str
    voice: str | None
    params: SynthesisParams
    speed: float = 1.0


@dataclass(frozen=True)
class ModelInfo:
    """A ready worker's description of its engine."""

    name: str
    clones_voices: bool
    compiled: bool
    notice: str | None
    languages: Languages = field(default_factory=ENGLISH_ONLY.copy)


# Part of the JSON of `/system-status`; a docstring would be shown in the API's documentation.
class WorkerStatus(BaseModel):
    id: str
    device: str
    state: WorkerState
    slots: int
    busy: int
    restarts: int
    pid: int | None  # None while no process runs
    last_error: str | None
    compiled: bool
    notice: str | None
    runaways: int
    prepared_voices: SkipValidation[Set[str]] = Field(frozenset(), exclude=True)  # digests


class QueueStatus(BaseModel):
    waiting: int
    running: int
    limit: int
    retries: int  # of jobs whose worker died
    samples: int = Field(exclude=True)  # of audio made
    preempted: int = Field(0, exclude=True)


@dataclass(frozen=True)
class BackendStatus:
    state: ServiceState
    model: str
    workers: tuple[WorkerStatus, ...]
    queue: QueueStatus


class Backend(Protocol):
    """Runs jobs. Methods are called on the event loop."""

    @property
    def ready(self) -> ModelInfo | None:
        """The engine of a ready worker; None if no worker is ready."""

    def submit(self, job: JobRequest) -> JobStream:
        """Queue a job. Raises `Draining`, `NotReady`, `QueueFull`."""

    def ensure_accepting(self) -> None:
        """Raise `Draining` or `NotReady` if no job would be accepted."""

    def ensure_ready(self) -> None:
        """Raise `Draining` or `NotReady` unless a worker is ready."""

    def status(self) -> BackendStatus: ...

    def set_voices(self, digests: frozenset[str]) -> None:
        """Have every worker prepare these voices and drop all others."""

    async def drain(self, grace_s: float) -> None:
        """Refuse new jobs; return when the accepted ones are over, aborting after `grace_s`."""

    def abort(self) -> None:
        """End every job with `Draining`."""
