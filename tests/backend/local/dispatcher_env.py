"""A dispatcher with fake workers and a fake clock."""

import asyncio
from dataclasses import replace

import pytest

import app.backend.job_stream as stream_module
import app.backend.local.dispatcher as dispatcher_module
from app.backend.base import JobRequest
from app.backend.job_stream import JobStream
from app.backend.local.dispatcher import Dispatcher, Limits
from app.backend.local.job import Worker
from app.backend.local.voice_tracker import VoiceTracker
from app.core.errors import ServerFault, ServiceError, WorkerLost
from app.ipc.messages import (
    ActiveJobs,
    AudioChunk,
    Broadcast,
    JobDone,
    JobResult,
    Synthesize,
    ToWorker,
    WorkerFailed,
)
from app.observability.metrics import Metrics
from tests.ipc.test_messages import PARAMS

LIMITS = Limits(queued=3, queue_timeout_s=60, ahead_samples=1000, client_stall_s=600)


class FakeWorker(Worker):
    """A ready worker that keeps its messages in `inbox`; while `blocked` it accepts none."""

    def __init__(self, name: str, slots: int = 1, *, blocked: bool = False) -> None:
        super().__init__(name, slots, self._take)
        self.inbox: list[ToWorker] = []
        self.refused = 0
        self.blocked = blocked

    def _take(self, message: ToWorker) -> bool:
        if self.blocked:
            self.refused += 1
        else:
            self.inbox.append(message)
        return not self.blocked

    @property
    def jobs_sent(self) -> list[Synthesize]:
        return [message for message in self.inbox if isinstance(message, Synthesize)]

    @property
    def job(self) -> str:
        """The id of the newest job."""
        return self.jobs_sent[-1].job

    @property
    def credits(self) -> list[int]:
        """All credit sent, including the first that rides in `Synthesize`."""
        return [m.credit if isinstance(m, Synthesize) else m.samples for m in self.inbox]


class DispatcherEnv:
    """A dispatcher that accepts jobs, its broadcasts, and shortcuts for messages of workers."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.broadcasts: list[ActiveJobs] = []
        self.metrics = Metrics()
        self.voices = VoiceTracker(lambda message: None)
        self.dispatcher = Dispatcher(limits, self.voices, self._keep, self.metrics)
        self.dispatcher.set_accepting(True)

    def _keep(self, message: Broadcast) -> None:
        assert isinstance(message, ActiveJobs)
        self.broadcasts.append(message)

    def submit(self, name: str, *, voice: str | None = None) -> JobStream:
        return self.dispatcher.submit(JobRequest(name, f"text of {name}", voice, PARAMS))

    def attach(self, *names: str, slots: int = 1) -> list[FakeWorker]:
        workers = [FakeWorker(name, slots) for name in names]
        for worker in workers:
            self.dispatcher.attach(worker)
        return workers

    def send(self, worker: Worker, message: JobResult, pcm: bytes = b"") -> None:
        self.dispatcher.handle(worker, message, pcm)

    def start(self, worker: FakeWorker) -> None:
        """Report that the worker has started its newest job."""
        self.dispatcher.job_started(worker, worker.job)

    def audio(self, worker: FakeWorker, seq: int, audio: bytes) -> None:
        """Send audio of the worker's newest job."""
        self.send(worker, AudioChunk(worker.job, seq), audio)

    def finish(self, worker: FakeWorker, chunks: int = 0, samples: int = 0) -> None:
        """Report that the worker's newest job is done."""
        self.send(worker, JobDone(worker.job, chunks, samples))

    def lose(
        self,
        worker: FakeWorker,
        reason: type[ServerFault] = WorkerLost,
        exit_report: WorkerFailed | None = None,
    ) -> None:
        self.dispatcher.detach(worker, reason("it died"), exit_report)

    def active(self) -> list[str]:
        """The names of the active jobs, as broadcast last."""
        return [name_of(job) for job in self.broadcasts[-1].jobs]

    def metric(self, name: str, **labels: str) -> float:
        value = self.metrics.registry.get_sample_value(name, labels)
        assert value is not None
        return value

    def outcomes(self) -> dict[str, float]:
        """Return the number of jobs by outcome."""
        samples = [
            sample for family in self.metrics.registry.collect() for sample in family.samples
        ]
        jobs = [sample for sample in samples if sample.name == "tts_jobs_total" and sample.value]
        return {sample.labels["outcome"]: sample.value for sample in jobs}


class FakeClock:
    """The time of the event loop, the dispatcher and its streams; `forward` advances it."""

    def __init__(self, patch: pytest.MonkeyPatch, loop: asyncio.AbstractEventLoop) -> None:
        self.now = loop.time()
        patch.setattr(loop, "time", self._read)
        for module in (dispatcher_module, stream_module):
            patch.setattr(module, "running_time", self._read)

    def _read(self) -> float:
        return self.now

    async def forward(self, seconds: float) -> None:
        """Advance the clock and run all callbacks that become due."""
        self.now += seconds
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def limits(**changes: float) -> Limits:
    return replace(LIMITS, **changes)


def name_of(job: str) -> str:
    return job.partition("#")[0]


def dispatched_to(*workers: FakeWorker) -> list[list[str]]:
    return [[name_of(job.job) for job in worker.jobs_sent] for worker in workers]


def pcm(samples: int) -> bytes:
    return bytes(2 * samples)


async def failed_with(stream: JobStream, error: type[ServiceError]) -> bool:
    """Whether the stream has ended with exactly this kind of error."""
    assert stream.ended
    with pytest.raises(ServiceError) as caught:
        await stream.read()
    return type(caught.value) is error
