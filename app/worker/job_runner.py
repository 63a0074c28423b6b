"""The jobs of one worker: id → task, each with its credit and exactly one last message.

Called by `worker.main` with what arrives on the channels. Knows, too, when the worker must be
replaced: its device has failed, or is short of memory again and again.
"""

import asyncio
import logging
from collections.abc import Awaitable
from time import monotonic
from typing import Protocol

from app.core.audio import BYTES_PER_SAMPLE
from app.core.errors import DeviceFailed, EngineFailed, OutOfMemory, ServiceError
from app.engines.base import Engine
from app.ipc.messages import (
    AudioChunk,
    Credit,
    JobCancelled,
    JobDone,
    JobFailed,
    JobReceived,
    LiveJobs,
    Result,
    Synthesize,
    WorkerFailed,
)
from app.pipeline.pipeline import Pipeline
from app.worker.voice_cache import PreparedVoices

log = logging.getLogger(__name__)


SHORTAGES = 2
"""So many jobs in a row that find no memory, even when it was freed, and the worker is replaced."""


class Send(Protocol):
    """How a message leaves for the master."""

    def __call__(self, message: Result, pcm: bytes | None = None) -> Awaitable[None]: ...


class Job:
    """One text being spoken. Sends its audio, but not more of it than it has credit for."""

    def __init__(self, message: Synthesize, send: Send) -> None:
        self.id = message.job
        self.voice = message.voice
        self.live_version = message.live_version
        self.began_at = monotonic()
        self.wanted = True
        self.waits_for_credit = False
        self.chunks = 0
        self.samples = 0
        self._credit = 0
        self._credit_came = asyncio.Event()
        self._send = send

    def grant(self, samples: int) -> None:
        """`samples` in all may be sent; less than before is an old message."""
        self._credit = max(self._credit, samples)
        self._credit_came.set()

    async def may_begin(self) -> None:
        """Returns when the master knows whom to blame, should this process die."""
        await self._send(JobReceived(self.id))
        await self._credit_left()

    async def emit(self, pcm: bytes) -> None:
        """Send PCM as the next audio chunk, as soon as there is credit left."""
        await self._credit_left()
        await self._send(AudioChunk(self.id, self.chunks), pcm)
        self.chunks += 1
        self.samples += len(pcm) // BYTES_PER_SAMPLE

    async def _credit_left(self) -> None:
        while self.samples >= self._credit:
            self._credit_came.clear()
            self.waits_for_credit = True
            try:
                await self._credit_came.wait()
            finally:
                self.waits_for_credit = False


class Jobs:
    """All running jobs; forgets each when its last message has left.

    `unfit` is done when this process must do no further job, with its last message.
    """

    def __init__(
        self, engine: Engine, pipeline: Pipeline, voices: PreparedVoices, send: Send
    ) -> None:
        self.unfit: asyncio.Future[WorkerFailed] = asyncio.get_running_loop().create_future()
        self._engine = engine
        self._pipeline = pipeline
        self._voices = voices
        self._send = send
        self._running: dict[str, tuple[Job, asyncio.Task[None]]] = {}
        self._ends: set[asyncio.Task[None]] = set()
        self._shortages = 0  # since the last job that was done
        self._short_at = 0.0
        voices.on_device_failure = self._voice_broke_the_device

    def start(self, message: Synthesize) -> None:
        job = Job(message, self._send)
        speaking = asyncio.create_task(self._speak(job, message), name=f"speak {job.id}")
        self._running[job.id] = (job, speaking)
        end = asyncio.create_task(self._end(job, speaking), name=f"end {job.id}")
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)

    def credit(self, message: Credit) -> None:
        if message.job in self._running:
            self._running[message.job][0].grant(message.samples)

    def keep(self, live: LiveJobs) -> None:
        """Cancel what is no longer wanted; a list older than a job says nothing about it."""
        for job, speaking in self._running.values():
            unwanted = job.id not in live.jobs and job.live_version <= live.version
            if unwanted and job.wanted:
                job.wanted = False
                speaking.cancel()

    async def finish(self) -> None:
        """Returns when no job runs."""
        while self._ends:
            await asyncio.wait(self._ends)

    @property
    def working(self) -> int:
        return sum(not job.waits_for_credit for job, _ in self._running.values())

    async def _speak(self, job: Job, message: Synthesize) -> None:
        """Once more, if memory ran out before any audio was sent."""
        await job.may_begin()
        try:
            await self._try(job, message)
            return
        except OutOfMemory as shortage:
            told = shortage.message
        await self._engine.free_memory()  # the exception is gone, and with it what it referred to
        if job.chunks or not job.wanted:  # a failing stage may have swallowed the cancellation
            raise OutOfMemory(told)
        log.warning("job %s is tried again: %s", job.id, told)
        await self._try(job, message)

    async def _try(self, job: Job, message: Synthesize) -> None:
        voice = await self._voices.get(message.voice)
        await self._pipeline.run(message.text, voice, message.params, job.emit)

    async def _end(self, job: Job, speaking: "asyncio.Task[None]") -> None:
        """However the speaking ends: one last message, or the worker's own end."""
        await asyncio.wait([speaking])
        if fault := _device_fault(speaking):
            log.error("job %s met a device that has failed", job.id, exc_info=fault)
            self._give_up(f"the device has failed: {fault}", job.id)
            return
        message = _last_message(job, speaking)
        await self._send(message)
        del self._running[job.id]
        self._count_shortages(job, message)
        log.debug("job %s %s after %.3f s", job.id, _verb(message), monotonic() - job.began_at)

    def _count_shortages(self, job: Job, message: JobDone | JobFailed | JobCancelled) -> None:
        """One moment without memory counts once, however many jobs it met."""
        match message:
            case JobDone():
                self._shortages = 0
            case JobFailed(code=OutOfMemory.code) if job.began_at > self._short_at:
                self._short_at = monotonic()
                self._shortages += 1
                if self._shortages >= SHORTAGES:
                    self._give_up(f"short of memory {SHORTAGES} times in a row: {message.message}")

    def _voice_broke_the_device(self, digest: str, fault: DeviceFailed) -> None:
        """A job that waits for the voice is to blame, if there is one."""
        waiting = (job.id for job, _ in self._running.values() if job.voice == digest)
        self._give_up(f"the device has failed: {fault}", next(waiting, None))

    def _give_up(self, reason: str, job: str | None = None) -> None:
        if not self.unfit.done():
            self.unfit.set_result(WorkerFailed(reason, job))


def _device_fault(speaking: "asyncio.Task[None]") -> DeviceFailed | None:
    fault = None if speaking.cancelled() else speaking.exception()
    return fault if isinstance(fault, DeviceFailed) else None


def _last_message(job: Job, speaking: "asyncio.Task[None]") -> JobDone | JobFailed | JobCancelled:
    if speaking.cancelled():
        return JobCancelled(job.id)
    match speaking.exception():
        case None:
            return JobDone(job.id, job.chunks, job.samples)
        case ServiceError() as error:
            return JobFailed(job.id, error.code, error.message, error.param)
        case error:
            log.error("job %s failed in the engine", job.id, exc_info=error)
            return JobFailed(job.id, EngineFailed.code, "the speech engine failed")


def _verb(message: JobDone | JobFailed | JobCancelled) -> str:
    return {JobDone: "spoken", JobFailed: "failed", JobCancelled: "cancelled"}[type(message)]
