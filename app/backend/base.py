"""Interface between the speech service and a backend that runs jobs on workers.

A `Backend` takes jobs and gives a `JobStream` for each. `backend.local` runs worker processes on
this machine. Modules above this one import no dispatcher, worker process or socket.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from app.core.errors import ServiceError
from app.core.params import SynthesisParams

ServiceState = Literal["starting", "ready", "draining", "degraded"]
WorkerState = Literal["starting", "ready", "restarting", "failed", "stopped"]


@dataclass(frozen=True)
class JobRequest:
    """A checked text to synthesize. `voice`: digest of a decoded voice; None: the default one."""

    request_id: str
    text: str
    voice: str | None
    params: SynthesisParams


@dataclass(frozen=True)
class ModelInfo:
    """A ready worker's description of its engine."""

    name: str
    clones_voices: bool
    compiled: bool
    notice: str | None


@dataclass(frozen=True)
class WorkerStatus:
    """One worker of the backend. `pid` is None while no process runs.

    `prepared_voices`: digests of the voices that it has ready for use.
    """

    id: str
    device: str
    state: WorkerState
    slots: int
    busy: int
    restarts: int
    pid: int | None
    last_error: str | None
    runaways: int
    model: ModelInfo | None
    startup_phase: str
    prepared_voices: frozenset[str] = frozenset()


@dataclass(frozen=True)
class QueueStatus:
    """`retries`: how often jobs were requeued because a worker died. `samples`: audio made."""

    waiting: int
    running: int
    limit: int
    retries: int
    samples: int


@dataclass(frozen=True)
class BackendStatus:
    state: ServiceState
    model: str
    workers: tuple[WorkerStatus, ...]
    queue: QueueStatus


class Restarted(Exception):
    """Raised by `JobStream`: discard all audio read, since another worker begins the job again."""


class JobStream(Protocol):
    """The audio of one job, for a single reader.

    `on_failed` is called when the job ends with an `error`, also while the reader awaits
    something else.
    """

    on_failed: Callable[[], None]

    @property
    def error(self) -> ServiceError | None: ...

    @property
    def committed(self) -> bool: ...

    async def read(self) -> bytes | None:
        """The next PCM (int16 little-endian, mono, 24 kHz); None at the complete end.

        Raises the job's `ServiceError`, or `Restarted`.
        """
        ...

    def commit(self) -> None:
        """Rule out a restart, before the first byte is sent. Raises what `read` would."""
        ...

    def close(self, failure: ServiceError | None = None) -> None:
        """End reading: a running job is cancelled, or counted as failed with `failure`."""
        ...


class Backend(Protocol):
    """Runs jobs. Methods are called on the event loop."""

    @property
    def ready(self) -> ModelInfo | None:
        """The engine of a ready worker; None if no worker is ready."""
        ...

    def submit(self, job: JobRequest) -> JobStream:
        """Queue a job. Raises `Draining`, `NotReady`, `QueueFull`."""
        ...

    def ensure_accepting(self) -> None:
        """Raise `Draining` or `NotReady` if no job would be accepted."""
        ...

    def ensure_ready(self) -> None:
        """Raise `Draining` or `NotReady` unless a worker is ready."""
        ...

    def status(self) -> BackendStatus: ...

    def set_voices(self, digests: frozenset[str]) -> None:
        """Have every worker prepare these voices and drop all others."""
        ...

    async def drain(self, grace_s: float) -> None:
        """Refuse new jobs; return when the accepted ones are over, aborting after `grace_s`."""
        ...

    def abort(self) -> None:
        """End every job with `Draining`."""
        ...
