"""Interface between the speech service and a backend that runs jobs on workers.

A `Backend` takes jobs and gives a `JobStream` for each. `backend.local` runs worker processes on
this machine. Modules above this one import no dispatcher, worker process or socket.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import BaseModel, Field, SkipValidation

from app.backend.job_stream import JobStream
from app.core.errors import ModelNotFound, NotReady
from app.core.model import ModelInfo
from app.core.params import SynthesisParams
from app.core.validation import shortened

ServiceState = Literal["starting", "ready", "draining", "degraded"]
WorkerState = Literal["starting", "ready", "restarting", "idle", "failed", "stopped"]


@dataclass(frozen=True)
class JobRequest:
    """A checked text to synthesize, or a recording to convert.

    `voice`: digest of a decoded voice; None: the default one. `speed`: how many seconds of the
    job's audio the client hears in a second. `model`: one of a model's names; None: the default
    one. `recording`: the name of a decoded recording, which takes the place of the text.
    """

    request_id: str
    text: str
    voice: str | None
    params: SynthesisParams
    speed: float = 1.0
    model: str | None = None
    recording: str | None = None


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
    """`model`: the default one. `models`: the status of each, if there are several."""

    state: ServiceState
    model: str
    workers: tuple[WorkerStatus, ...]
    queue: QueueStatus
    models: tuple["BackendStatus", ...] = ()

    @property
    def by_model(self) -> tuple["BackendStatus", ...]:
        return self.models or (self,)


class Backend(Protocol):
    """Runs jobs. Methods are called on the event loop."""

    @property
    def models(self) -> Sequence[ModelInfo]:
        """The models, the default first. As their workers describe them, once one was ready."""

    def submit(self, job: JobRequest) -> JobStream:
        """Queue a job for a model. Raises `Draining`, `NotReady`, `QueueFull`."""

    def ensure_accepting(self, model: str | None = None) -> None:
        """Raise `Draining` or `NotReady` if no job for the model would be accepted."""

    def ensure_room(self, model: str | None = None) -> None:
        """Raise what `submit` would raise for a job for the model."""

    def ensure_ready(self) -> None:
        """Raise `Draining` or `NotReady` unless a worker of any model is ready."""

    def status(self) -> BackendStatus: ...

    def set_voices(self, digests: frozenset[str]) -> None:
        """Have every worker prepare these voices and drop all others."""

    async def drain(self, grace_s: float) -> None:
        """Refuse new jobs; return when the accepted ones are over, aborting after `grace_s`."""

    def abort(self) -> None:
        """End every job with `Draining`."""


def find_model(models: Sequence[ModelInfo], name: str | None) -> ModelInfo:
    """The model of that name, the default one without; raises `ModelNotFound`.

    Raises `NotReady` while an engine of the user's own, which has its name in its class, may be it.
    """
    for model in models:
        if name is None or name in model.names:
            return model
    if any(":" in model.name for model in models):
        raise NotReady("no worker is ready yet, and the model may be one that still starts")
    known = ", ".join(model.name for model in models)
    raise ModelNotFound(
        f"There is no model {shortened(name or '')!r}, only: {known}.", param="model"
    )
