"""The dispatcher's records of a job and of a worker: states, counts and times."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from app.backend.base import JobRequest
from app.backend.job_stream import JobStream
from app.core.audio import SAMPLE_RATE
from app.core.errors import WorkerLost
from app.core.resume_point import BEGINNING, ResumePoint
from app.ipc.messages import ToWorker


@dataclass(eq=False)
class Worker:
    """One ready worker process. `send` returns False if it cannot take a message now."""

    name: str
    slots: int
    send: Callable[[ToWorker], bool]
    jobs: dict[str, "Job"] = field(default_factory=dict)
    last_used: int = 0
    finished_jobs: int = 0
    died_of_suspect: bool = False

    @property
    def free(self) -> bool:
        """Whether it can take a job now; beside one that must run alone it takes no other."""
        return len(self.jobs) < self.slots and not any(job.alone for job in self.jobs.values())


@dataclass(eq=False)
class Job:
    """One accepted request. Times are in seconds by `running_time`.

    `suspect`: a worker may have died of it; it runs alone until it has sent `alone_until_chunk`
    chunks of audio. `lost_work_s`: spent on workers that died.
    `playout_end_at`: when a client that plays audio as it arrives will have played all of it.
    `paused_at`: when the job used up its credit, or was preempted. `preempt_requested`: the worker
    has been sent a `Preempt`. `resume_point`: where the job goes on if it was preempted.
    """

    id: str
    request: JobRequest
    stream: JobStream
    accepted_at: float
    deadline: asyncio.TimerHandle | None = None
    worker: Worker | None = None
    started: bool = False  # the worker has reported `JobStarted`
    suspect: bool = False
    alone_until_chunk: int = 0
    preempt_requested: bool = False
    resume_point: ResumePoint = BEGINNING
    granted: int = 0
    chunks: int = 0
    samples: int = 0
    sent_at: float | None = None
    lost_work_s: float = 0.0
    first_audio_at: float | None = None
    first_audio_counted: bool = False  # in the metric, once for all attempts
    playout_end_at: float = 0.0
    paused_at: float | None = None
    paused_s: float = 0.0

    @property
    def alone(self) -> bool:
        """Whether no other job may run beside it: a suspect, until it has made more audio."""
        return self.suspect and self.chunks < self.alone_until_chunk

    def assign(self, worker: Worker) -> None:
        self.worker = worker
        worker.jobs[self.id] = self
        self.started = self.preempt_requested = False

    def release(self) -> None:
        if self.worker:
            self.worker.jobs.pop(self.id, None)
        self.worker = None

    def restart(self) -> None:
        """Discard all audio: another worker begins the job again."""
        self.stream.restart()
        self.resume_point = BEGINNING
        self.chunks = self.samples = self.granted = 0
        self.first_audio_at = self.paused_at = None
        self.paused_s = 0.0

    @property
    def was_preempted(self) -> bool:
        return self.resume_point is not BEGINNING

    def preempt(self, resume_point: ResumePoint, now: float) -> None:
        """Its slot is free; it needs new credit."""
        self.resume_point = resume_point
        self.granted = self.samples
        self.paused_at = now if self.paused_at is None else self.paused_at

    def lost_audio(self, chunks: int, samples: int) -> WorkerLost | None:
        """The error if the worker's totals differ from what has arrived, else None."""
        if (chunks, samples) == (self.chunks, self.samples):
            return None
        return WorkerLost("audio was lost between the worker and the main process")

    def lead_s(self, now: float) -> float:
        """For how long the client will have audio; at least for what it has not yet read."""
        return max(self.playout_end_at - now, self._unread_s)

    @property
    def _unread_s(self) -> float:
        return self._duration_s(self.samples - self.stream.consumed_samples)

    def _duration_s(self, samples: int) -> float:
        return samples / SAMPLE_RATE / self.request.speed

    def allowed(self, ahead_samples: int) -> int:
        """The credit of a job that may be `ahead_samples` ahead of its client."""
        return self.stream.consumed_samples + ahead_samples

    def credit_due(self, ahead_samples: int) -> bool:
        return self.allowed(ahead_samples) - self.granted >= max(1, ahead_samples // 4)

    def add_audio(self, samples: int, now: float) -> float:
        """Count one chunk; return the length of the playout gap before it in seconds."""
        if self.first_audio_at is None:
            self.first_audio_at = self.playout_end_at = now
        gap_s = max(0.0, now - self.playout_end_at)
        self.playout_end_at += gap_s + self._duration_s(samples)
        self.chunks += 1
        self.samples += samples
        if self.samples >= self.granted:
            self.paused_at = now
        return gap_s

    def grant(self, samples: int, now: float) -> None:
        """Raise the credit to `samples`. A slow client's pause does not count as an underrun."""
        self.granted = samples
        if self.paused_at is not None:
            self.paused_s += now - self.paused_at
            self.paused_at = None
        if self._unread_s:
            self.playout_end_at = max(self.playout_end_at, now + self._unread_s)

    def summary(self, now: float) -> str:
        """Figures for the job's log line, without its text."""
        figures = {
            "characters": f"{len(self.request.text)}",
            "worker": self.worker and self.worker.name,
            "wait_s": f"{(self.sent_at or now) - self.accepted_at:.3f}",
            "first_audio_s": self.first_audio_at
            and f"{self.first_audio_at - self.accepted_at:.3f}",
            "audio_s": f"{self.samples / SAMPLE_RATE:.3f}",
            "total_s": f"{now - self.accepted_at:.3f}",
        }
        return " ".join(f"{name}={value}" for name, value in figures.items() if value)
