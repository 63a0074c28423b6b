"""Runs the jobs of one worker, each as a task with its credit and exactly one last message.

Requests a restart of the worker when its device has failed, or runs out of memory repeatedly.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from functools import partial
from time import monotonic
from typing import Protocol, TypeVar

from app.core import progress
from app.core.audio import BYTES_PER_SAMPLE
from app.core.errors import DeviceFailed, EngineFailed, OutOfMemory, ServiceError
from app.core.progress import Progress
from app.core.resume_point import ResumePoint
from app.core.retry_budget import RetryBudget
from app.engines.base import Engine
from app.ipc import messages
from app.ipc.messages import JobCancelled, JobDone, JobFailed, JobPreempted
from app.pipeline.pipeline import Pipeline
from app.worker.stall_detector import Work
from app.worker.voice_cache import VoiceCache

log = logging.getLogger(__name__)

MAX_CONSECUTIVE_OOM = 2
"""The worker is replaced when this many jobs in a row run out of memory, even after a retry."""

DEVICE = "device"

LastMessage = JobDone | JobFailed | JobCancelled | JobPreempted

T = TypeVar("T")


class Send(Protocol):
    def __call__(self, message: messages.Result, pcm: bytes | None = None) -> Awaitable[None]: ...


class ActiveJob:
    """A text being synthesized, or a recording being converted; sends audio as it has credit.

    `waits`: for credit or for its voice, and so makes no `progress`. `preempt_requested`: it is to
    stop after the text chunk in progress; `resume_point`: where it has stopped.
    """

    task: asyncio.Task[None]

    def __init__(self, message: messages.Synthesize, send: Send) -> None:
        self.id = message.job
        self.request = message
        self.began_at = monotonic()
        self.cancelled = False
        self.progress = Progress()
        self.waits = False
        self.preempt_requested = False
        self.resume_point: ResumePoint | None = None
        self.chunks = message.chunks
        self.samples = message.samples
        self._credit = message.credit
        self._credit_raised = asyncio.Event()
        self._send = send

    def grant(self, samples: int) -> None:
        """Allow `samples` samples in total; ignored if that is less than before."""
        self._credit = max(self._credit, samples)
        self._credit_raised.set()

    def preempt(self) -> None:
        self.preempt_requested = True
        self._credit_raised.set()

    async def wait_for(self, event: Awaitable[T]) -> T:
        self.waits = True
        try:
            return await event
        finally:
            self.waits = False

    async def emit(self, pcm: bytes) -> None:
        """Send PCM as the next audio chunk, as soon as there is credit left or it is to stop."""
        while self.samples >= self._credit and not self.preempt_requested:
            self._credit_raised.clear()
            await self.wait_for(self._credit_raised.wait())
        self.progress.step()
        await self._send(messages.AudioChunk(self.id, self.chunks), pcm)
        self.chunks += 1
        self.samples += len(pcm) // BYTES_PER_SAMPLE


class JobRunner:
    """`restart_request`: the worker's last message, as soon as it must run no further job."""

    def __init__(
        self,
        engine: Engine,
        pipeline: Pipeline,
        voices: VoiceCache,
        send: Send,
        report: Callable[[messages.Report], None],
    ) -> None:
        self.restart_request: asyncio.Future[messages.WorkerFailed] = (
            asyncio.get_running_loop().create_future()
        )
        self._engine = engine
        self._pipeline = pipeline
        self._voices = voices
        self._send = send
        self._report = report
        self._running: dict[str, ActiveJob] = {}
        self._completions: set[asyncio.Task[None]] = set()
        self._consecutive_oom = RetryBudget[str](MAX_CONSECUTIVE_OOM)
        self._last_oom_at = 0.0
        voices.on_device_failure = self._on_voice_broke_device

    def start(self, message: messages.Synthesize) -> None:
        job = self._running[message.job] = ActiveJob(message, self._send)
        job.task = asyncio.create_task(self._run(job), name=f"job {job.id}")
        completion = asyncio.create_task(self._end(job), name=f"end of job {job.id}")
        self._completions.add(completion)
        completion.add_done_callback(self._completions.discard)

    def grant(self, credit: messages.Credit) -> None:
        if job := self._running.get(credit.job):
            job.grant(credit.samples)

    def preempt(self, message: messages.Preempt) -> None:
        if job := self._running.get(message.job):
            job.preempt()

    def cancel_missing(self, active: messages.ActiveJobs) -> None:
        """Cancel the jobs that are not listed, but not those newer than the list."""
        for job in self._running.values():
            missing = job.id not in active.jobs and job.request.active_version <= active.version
            if missing and not job.cancelled:
                job.cancelled = True
                job.task.cancel()

    async def wait_idle(self) -> None:
        while self._completions:
            await asyncio.wait(self._completions)

    @property
    def under_way(self) -> dict[Work, Progress]:
        """What should be making steps now: the jobs that wait for nothing, and a voice."""
        jobs = (job for job in self._running.values() if not job.waits)
        under_way = {Work(job=job.id): job.progress for job in jobs}
        if self._voices.under_way:
            digest, preparation = self._voices.under_way
            under_way[Work(voice=digest)] = preparation
        return under_way

    async def _run(self, job: ActiveJob) -> None:
        progress.current.set(job.progress)
        async with self._voices.held() if job.request.alone else nullcontext():
            await self._try(job)

    async def _try(self, job: ActiveJob) -> None:
        """Run the job; once more, if memory ran out before any audio was sent."""
        self._report(messages.JobStarted(job.id))
        try:
            await self._attempt(job)
            return
        except OutOfMemory as shortage:
            message = shortage.message
        # outside `except`: the traceback no longer keeps tensors alive
        await self._engine.free_memory()
        sent_audio = job.chunks > job.request.chunks
        if sent_audio or job.cancelled:  # OutOfMemory may have replaced a CancelledError
            raise OutOfMemory(message)
        log.warning("job %s is tried again: %s", job.id, message)
        await self._attempt(job)

    async def _attempt(self, job: ActiveJob) -> None:
        voice = await job.wait_for(self._voices.get(job.request.voice))
        speak = partial(self._pipeline.run, job.request.text)
        if name := job.request.recording:
            recording, rate = await self._voices.load_recording(name)
            speak = partial(self._pipeline.convert, recording, rate)
        job.resume_point = await speak(
            voice,
            job.request.params,
            job.emit,
            resume_point=job.request.resume_point,
            should_stop=lambda: job.preempt_requested,
        )

    async def _end(self, job: ActiveJob) -> None:
        """Send the job's last message, or request a restart if the device has failed."""
        await asyncio.wait([job.task])
        fault = None if job.task.cancelled() else job.task.exception()
        if isinstance(fault, DeviceFailed):
            log.error("job %s failed: the device is unusable", job.id, exc_info=fault)
            self._request_restart(f"the device has failed: {fault}", job=job.id)
            return
        message = _last_message(job)
        del self._running[job.id]  # before it may be resumed here
        await self._send(message)
        self._count_oom(job, message)
        log.debug(
            "job %s %s after %.3f s", job.id, _VERBS[type(message)], monotonic() - job.began_at
        )

    def _count_oom(self, job: ActiveJob, message: LastMessage) -> None:
        """Count consecutive `OutOfMemory` failures; jobs that ran concurrently count once."""
        match message:
            case JobDone():
                self._consecutive_oom = RetryBudget[str](MAX_CONSECUTIVE_OOM)
            case JobFailed(code=OutOfMemory.code) if job.began_at > self._last_oom_at:
                self._last_oom_at = monotonic()
                self._consecutive_oom.record(DEVICE)
                if self._consecutive_oom.exhausted(DEVICE):
                    self._request_restart(
                        f"short of memory {MAX_CONSECUTIVE_OOM} times in a row: {message.message}"
                    )

    def _on_voice_broke_device(self, digest: str, fault: DeviceFailed) -> None:
        """Blame the voice, and a job that waits for it if there is one."""
        waiting = (job.id for job in self._running.values() if job.request.voice == digest)
        self._request_restart(
            f"the device has failed: {fault}", job=next(waiting, None), voice=digest
        )

    def _request_restart(
        self, reason: str, *, job: str | None = None, voice: str | None = None
    ) -> None:
        if not self.restart_request.done():
            self.restart_request.set_result(messages.WorkerFailed(reason, job, voice))


_VERBS = {
    JobDone: "done",
    JobFailed: "failed",
    JobCancelled: "cancelled",
    JobPreempted: "preempted",
}


def _last_message(job: ActiveJob) -> LastMessage:
    if job.task.cancelled():
        return JobCancelled(job.id)
    match job.task.exception():
        case None if job.resume_point:
            return JobPreempted(job.id, job.chunks, job.samples, job.resume_point)
        case None:
            return JobDone(job.id, job.chunks, job.samples)
        case ServiceError() as error:
            return JobFailed(job.id, error.code, error.message, error.param)
        case error:
            log.error("job %s failed in the engine", job.id, exc_info=error)
            return JobFailed(job.id, EngineFailed.code, "the speech engine failed")
