"""A backend in memory that completes each job at once, as `ScriptedEngine` would speak it."""

import asyncio
from pathlib import Path

from app.audio.sandbox import load_decoded
from app.backend.base import (
    BackendStatus,
    JobRequest,
    QueueStatus,
    ServiceState,
    WorkerStatus,
)
from app.backend.job_stream import JobStream
from app.core.errors import Draining, EmptyText, EngineFailed, NotReady, QueueFull, ServiceError
from app.core.model import ModelInfo
from tests.support.engines import expected_pcm, voice_code

MODEL = ModelInfo("scripted", clones_voices=True, compiled=False, notice=None)
FAILURES: dict[str, ServiceError] = {
    "raise": EngineFailed("the speech engine failed"),
    "mute": EmptyText("scripted: nothing to say", param="text"),
}
"""Words at which a job fails."""


class FakeBackend:
    """Implements `backend.base.Backend`. `decoded_dir` has the voices; `jobs` are all submitted."""

    def __init__(self, decoded_dir: Path) -> None:
        self.jobs: list[JobRequest] = []
        self.state: ServiceState = "ready"
        self.model = MODEL
        self.queue_is_full = False
        self._decoded_dir = decoded_dir

    @property
    def models(self) -> list[ModelInfo]:
        return [self.model]

    @property
    def ready(self) -> ModelInfo | None:
        return self.model if self.state == "ready" else None

    def submit(self, job: JobRequest) -> JobStream:
        self.ensure_room()
        self.jobs.append(job)
        voice = 0
        if job.voice is not None:
            samples, _ = load_decoded(self._decoded_dir / job.voice)
            voice = voice_code(samples)
        stream = JobStream()
        asyncio.get_running_loop().call_soon(_speak, job, voice, stream)
        return stream

    def ensure_accepting(self, model: str | None = None) -> None:
        self.ensure_ready()

    def ensure_room(self, model: str | None = None) -> None:
        self.ensure_accepting()
        if self.queue_is_full:
            raise QueueFull("100 requests are waiting already")

    def ensure_ready(self) -> None:
        if self.state == "draining":
            raise Draining("the server is shutting down")
        if self.state != "ready":
            raise NotReady("no worker is ready yet")

    def status(self) -> BackendStatus:
        worker = WorkerStatus(
            id="cpu.0",
            device="cpu",
            state="ready" if self.ready else "starting",
            slots=1,
            busy=0,
            restarts=0,
            pid=None,
            last_error=None,
            compiled=self.model.compiled,
            notice=self.model.notice,
            runaways=0,
        )
        queue = QueueStatus(waiting=0, running=0, limit=100, retries=0, samples=0)
        return BackendStatus(self.state, "scripted", (worker,), queue)

    def set_voices(self, digests: frozenset[str]) -> None:
        pass

    async def drain(self, grace_s: float) -> None:
        self.state = "draining"

    def abort(self) -> None:
        self.state = "draining"


def _speak(job: JobRequest, voice: int, stream: JobStream) -> None:
    for word in job.text.split():
        if failure := FAILURES.get(word.rstrip(".")):
            stream.end(failure)
        elif pcm := expected_pcm(word, job.params.seed or 0, voice):
            stream.put(pcm)
    stream.end()
