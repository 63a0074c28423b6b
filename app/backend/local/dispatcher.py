"""Queues jobs, assigns them to workers and ends each job's stream exactly once.

The dispatcher owns the queue and knows which worker runs which job; it knows neither processes nor
HTTP. Called by `LocalBackend` (`submit`, `tick`, `drain`, `abort`), by the managed workers
(`attach`, `detach`, `job_started`, `handle`), and through the streams by their readers.

    submit → queue (FIFO, bounded) → a worker with a free slot → JobStream → done | error | closed
                                       ⇅ preempted

A slot is busy from `Synthesize` until the worker reports the end of the job, or dies. While others
wait, a job far enough ahead of its client gives its slot up after a text chunk: it is preempted.
It goes on, on any worker, before those that wait when its client needs more audio soon, else when
none wait.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain

from app.backend.base import JobRequest
from app.backend.job_stream import JobStream
from app.backend.local.assignment import jobs_to_preempt, next_assignment, suspects
from app.backend.local.job import Job, Worker
from app.backend.local.queue_pace import QueuePace
from app.backend.local.voice_tracker import VoiceTracker
from app.core.audio import BYTES_PER_SAMPLE, SAMPLE_RATE
from app.core.errors import (
    ClientStalled,
    Draining,
    NotReady,
    PoisonRequest,
    QueueFull,
    QueueTimeout,
    ServerFault,
    ServiceError,
    WorkerLost,
    WorkerStalled,
    from_code,
)
from app.core.resume_point import ResumePoint
from app.core.retry_budget import RetryBudget
from app.core.running_time import running_time
from app.ipc.messages import (
    ActiveJobs,
    AudioChunk,
    Broadcast,
    Credit,
    JobCancelled,
    JobDone,
    JobFailed,
    JobPreempted,
    JobResult,
    Preempt,
    Synthesize,
    WorkerFailed,
)
from app.observability.metrics import CANCELLED, Metrics

log = logging.getLogger(__name__)

RESEND_S = 0.05
TIMER_ACCURACY_S = 0.01
MAX_JOB_CRASHES = 2
"""A job is not retried after this many worker crashes of which it was the only suspect."""

SLOWEST_SPEED = 0.01
"""A client that reads audio at less than this share of playback speed has stalled."""

MAX_UNREAD_BYTES = 268_435_456
"""While clients leave more finished audio than this unread, no job is accepted or started."""

SAFE_LEAD_S = 10.0
"""While a client has audio for so many seconds, its job may be without a slot."""


@dataclass(frozen=True)
class Limits:
    """`queued`: jobs that may wait. `ahead_samples`: audio that a job may send unread."""

    queued: int
    queue_timeout_s: float
    ahead_samples: int
    client_stall_s: float

    @property
    def safe_lead_s(self) -> float:
        return min(SAFE_LEAD_S, self.ahead_samples / SAMPLE_RATE / 3)


class Dispatcher:
    """All methods run on the event loop, and none of them blocks."""

    def __init__(
        self,
        limits: Limits,
        voices: VoiceTracker,
        broadcast: Callable[[Broadcast], None],
        metrics: Metrics,
    ) -> None:
        self._limits = limits
        self._voices = voices
        self._broadcast = broadcast
        self._metrics = metrics
        self._queue: OrderedDict[str, Job] = OrderedDict()
        self._preempted: dict[str, Job] = {}
        self._pace = QueuePace(running_time)
        self._workers: list[Worker] = []
        self._crashes = RetryBudget[str](MAX_JOB_CRASHES)
        self._open: set[Job] = set()  # until their streams are closed
        self._unread_bytes = 0  # of jobs that are on no worker
        self._idle = asyncio.Event()
        self._idle.set()
        self._resending: asyncio.TimerHandle | None = None
        self._active_version = 0
        self._accepted = 0
        self._accepting = False
        self._worker_expected = False
        self.draining = False
        self.unloaded = False  # no worker runs, until one is attached
        self.retries = 0
        self.samples = 0  # of audio received so far

    # --- called by the backend ------------------------------------------------------------------

    def submit(self, request: JobRequest) -> JobStream:
        self.ensure_room()
        stream = JobStream()
        self._accepted += 1
        job = Job(f"{request.request_id}#{self._accepted}", request, stream, running_time())
        stream.on_consumed = lambda: self._grant(job)
        stream.on_close = lambda failure: self._closed(job, failure)
        self._open.add(job)
        self._idle.clear()
        self._enqueue(job)
        self._dispatch()
        return stream

    def ensure_room(self) -> None:
        """Raises `Draining`, `NotReady`, `QueueFull`."""
        self.ensure_accepting()
        # The queue can be non-empty although a slot is free, if that worker's socket accepts no
        # message yet.
        waiting = len(self._queue)
        free = self.unloaded or any(worker.free for worker in self._workers)
        if waiting >= self._limits.queued and (waiting or not free):
            raise QueueFull(
                f"{waiting} requests are waiting already (MAX_QUEUED_REQUESTS)",
                retry_after_s=self._retry_after_s(),
            )
        if self._unread_bytes > MAX_UNREAD_BYTES:
            raise QueueFull("too much finished audio is waiting for clients that do not read it")

    def ensure_accepting(self) -> None:
        if self.draining:
            raise Draining("the server is shutting down")
        if not self._accepting:
            raise NotReady("no worker is ready yet")

    def tick(self) -> None:
        """Twice a second: repeat messages that may have been lost, look for stalled clients.

        Then start jobs that waited for unread audio to become less, and those that were preempted
        and whose clients need more audio.
        """
        self._publish()
        now = running_time()
        least_samples = int(self._limits.client_stall_s * SLOWEST_SPEED * SAMPLE_RATE)
        for job in list(self._open):
            if not job.stream.ended:
                self._grant(job)
            if job.stream.stalled_s(now, least_samples) > self._limits.client_stall_s:
                self._abort(
                    job,
                    ClientStalled("the client took nothing for too long (CLIENT_STALL_SECONDS)"),
                )
        self._unread_bytes = sum(job.stream.unread_bytes for job in self._open if not job.worker)
        self._dispatch()

    def drain(self) -> None:
        self.draining = True

    @property
    def idle(self) -> bool:
        """Whether no job is open."""
        return not self._open

    async def wait_idle(self) -> None:
        await self._idle.wait()

    def abort(self) -> None:
        for job in list(self._open):
            self._abort(job, Draining("the server is shutting down"))

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def preempted(self) -> int:
        return len(self._preempted)

    @property
    def running(self) -> int:
        return sum(len(worker.jobs) for worker in self._workers)

    # --- called by the managed workers ----------------------------------------------------------

    def attach(self, worker: Worker) -> None:
        self.unloaded = False
        self._workers.append(worker)
        self._dispatch()

    def detach(
        self, worker: Worker, reason: ServerFault, exit_report: WorkerFailed | None = None
    ) -> None:
        """Remove a worker that is gone, after all its messages were handled.

        Requeue its jobs that have sent nothing to the client, and keep preempted those that it had
        not yet resumed. Fail those at `MAX_JOB_CRASHES`, and those that certainly made the worker
        stall.
        """
        if worker in self._workers:
            self._workers.remove(worker)
        blamed = suspects(worker, exit_report)
        certain = exit_report is not None or len(blamed) == 1
        worker.died_of_suspect = any(job.suspect for job in blamed)
        for job in reversed(list(worker.jobs.values())):
            if not job.stream.ended:
                if job in blamed:
                    job.suspect, job.alone_until_chunk = True, job.chunks + 1
                    if certain:
                        self._crashes.record(job.id)
                hangs = isinstance(reason, WorkerStalled) and certain and job in blamed
                self._retry_or_fail(job, worker, reason, retry=not hangs)
            job.release()
        self._dispatch()

    def set_accepting(self, accepting: bool, *, worker_expected: bool = False) -> None:
        """Whether a worker is ready or will be again; if not, fail the waiting jobs.

        `worker_expected`: another worker is about to attach.
        """
        self._accepting = accepting
        self.unloaded &= accepting
        self._worker_expected = worker_expected
        if not accepting:
            for job in [*self._queue.values(), *self._preempted.values()]:
                self._end(job, NotReady("no worker can be started"))
        self._dispatch()

    def job_started(self, worker: Worker, job_id: str) -> None:
        """From now on the job counts as a possible cause if the process exits."""
        if job := worker.jobs.get(job_id):
            job.started = True

    def handle(self, worker: Worker, message: JobResult, pcm: bytes) -> None:
        """Handle a live worker's message about one of its jobs; others are ignored."""
        job = worker.jobs.get(message.job)
        if job is None:
            return
        match message:
            case AudioChunk():
                self._add_audio(job, message.seq, pcm)
                return
            case JobDone(_, chunks, samples):
                worker.finished_jobs += 1
                self._end(job, job.lost_audio(chunks, samples))
            case JobPreempted(_, chunks, samples, resume_point):
                if lost := job.lost_audio(chunks, samples):
                    self._end(job, lost)
                elif not job.stream.ended:
                    self._preempt(job, resume_point)
            case JobFailed():
                self._end(job, from_code(message.code, message.message, message.param))
            case JobCancelled():
                self._end(job, ServerFault("the job was cancelled"))
        job.release()
        self._unread_bytes += job.stream.unread_bytes  # until the next `tick` counts all
        self._dispatch()

    # --- queue ----------------------------------------------------------------------------------

    def _enqueue(self, job: Job, *, first: bool = False) -> None:
        self._queue[job.id] = job
        self._pace.job_queued()
        if first:
            self._queue.move_to_end(job.id, last=False)
        if not job.suspect:  # which waits for its turn because of others
            self._set_deadline(job)

    def _set_deadline(self, job: Job) -> None:
        loop = asyncio.get_running_loop()
        job.deadline = loop.call_later(self._time_left_s(job), self._timed_out, job)

    def _time_left_s(self, job: Job) -> float:
        waited_s = running_time() - job.accepted_at - job.lost_work_s
        return self._limits.queue_timeout_s - waited_s

    def _leave_queue(self, job: Job) -> None:
        self._queue.pop(job.id, None)
        self._preempted.pop(job.id, None)
        if not self._queue:
            self._pace.queue_emptied()
        if job.deadline:
            job.deadline.cancel()

    def _retry_after_s(self) -> int | None:
        return self._pace.retry_after_s(len(self._queue), self._limits.queue_timeout_s)

    def _timed_out(self, job: Job) -> None:
        if self._time_left_s(job) > TIMER_ACCURACY_S:  # this process was suspended meanwhile
            self._set_deadline(job)
            return
        if self.unloaded:
            loop = asyncio.get_running_loop()
            job.deadline = loop.call_later(self._limits.queue_timeout_s, self._timed_out, job)
            return
        message = (
            f"no worker was free within {self._limits.queue_timeout_s:g} s (QUEUE_TIMEOUT_SECONDS)"
        )
        self._end(job, QueueTimeout(message, retry_after_s=self._retry_after_s()))

    def _preempt(self, job: Job, resume_point: ResumePoint) -> None:
        log.debug("job %s preempted: others wait", job.id)
        job.preempt(resume_point, running_time())
        self._preempted[job.id] = job

    # --- dispatch -------------------------------------------------------------------------------

    def _next_assignment(self) -> tuple[Job, Worker] | None:
        return next_assignment(
            self._candidates(), self._workers, worker_expected=self._worker_expected
        )

    def _candidates(self) -> Iterable[Job]:
        """The jobs that want a slot, those first whose clients need more audio soon."""
        if not self._preempted and self._unread_bytes <= MAX_UNREAD_BYTES:
            return self._queue.values()
        needy, buffered, others = self._resumable()
        if self._unread_bytes > MAX_UNREAD_BYTES:
            return [*needy, *buffered]
        return chain(needy, buffered, self._queue.values(), others)

    def _resumable(self) -> tuple[list[Job], list[Job], list[Job]]:
        """The preempted jobs with credit.

        Those whose clients need more audio soon, the neediest first; those whose clients wait for
        the complete file; others.
        """
        ahead, now = self._limits.ahead_samples, running_time()
        jobs = [job for job in self._preempted.values() if job.credit_due(ahead)]
        buffered = [job for job in jobs if not job.stream.committed]
        heard = [job for job in jobs if job.stream.committed]
        heard.sort(key=lambda job: job.lead_s(now))
        needy = sum(job.lead_s(now) < self._limits.safe_lead_s for job in heard)
        return heard[:needy], buffered, heard[needy:]

    def _request_preemptions(self) -> None:
        """Have as many jobs give up their slots as jobs wait for one."""
        if not (self._queue or self._preempted):
            return
        needy, buffered, _ = self._resumable()
        waiting = len(needy) + len(buffered)
        if self._unread_bytes <= MAX_UNREAD_BYTES:
            waiting += len(self._queue)
        if waiting:
            now, safe_lead_s = running_time(), self._limits.safe_lead_s
            for job in jobs_to_preempt(self._running(), waiting, len(needy), now, safe_lead_s):
                job.preempt_requested = bool(job.worker and job.worker.send(Preempt(job.id)))

    def _dispatch(self) -> None:
        while assignment := self._next_assignment():
            job, worker = assignment
            if self._voices.is_poison(worker.name, job.request.voice):
                self._end(job, PoisonRequest("the workers that prepared this voice died of it"))
            elif self._start(job, worker):
                if not job.was_preempted:
                    self._pace.job_started()
                self._leave_queue(job)
            else:
                if self._resending:
                    self._resending.cancel()
                loop = asyncio.get_running_loop()
                self._resending = loop.call_later(RESEND_S, self._dispatch)
                return
        self._request_preemptions()

    def _start(self, job: Job, worker: Worker) -> bool:
        """Send the job; False if the worker takes no message, e.g. is not connected yet."""
        self._active_version += 1
        worker.last_used = self._active_version
        request, credit = job.request, job.allowed(self._limits.ahead_samples)
        job.assign(worker)
        message = Synthesize(
            job.id,
            request.text,
            request.voice,
            request.params,
            self._active_version,
            credit,
            job.alone,
            job.chunks,
            job.samples,
            job.resume_point,
            request.recording,
        )
        if not worker.send(message):
            job.release()
            return False
        now = running_time()
        job.grant(credit, now)
        if job.sent_at is None:
            job.stream.queued_s = now - job.accepted_at
            self._metrics.job_waited(job.stream.queued_s)
        if not job.was_preempted:
            job.sent_at = now
        log.debug("job %s sent to worker %s", job.id, worker.name)
        return True

    def _retry_or_fail(self, job: Job, worker: Worker, reason: ServerFault, *, retry: bool) -> None:
        if job.was_preempted and not job.started:
            self._preempt(job, job.resume_point)
        elif job.stream.committed or not retry:
            self._end(job, reason)
        elif self._crashes.exhausted(job.id):
            self._end(job, PoisonRequest("the workers that tried this request died of it"))
        else:
            self.retries += 1
            log.info(
                "job %s requeued: worker %s exited before any audio was sent", job.id, worker.name
            )
            if job.sent_at:
                job.lost_work_s += running_time() - job.sent_at
            job.restart()
            self._enqueue(job, first=True)

    # --- audio ----------------------------------------------------------------------------------

    def _add_audio(self, job: Job, seq: int, pcm: bytes) -> None:
        if job.stream.ended:
            return
        if seq != job.chunks:
            self._end(job, WorkerLost(f"audio chunk {seq} came in place of {job.chunks}"))
            return
        now, samples = running_time(), len(pcm) // BYTES_PER_SAMPLE
        if not job.first_audio_counted:
            job.first_audio_counted = True
            self._metrics.first_audio(now - job.accepted_at)
        if gap_s := job.add_audio(samples, now):
            self._metrics.underrun(gap_s)
        self.samples += samples
        job.stream.put(pcm)
        if job.suspect:
            self._dispatch()  # it may no longer have to be alone
        elif self._queue and not job.preempt_requested:
            self._request_preemptions()

    def _grant(self, job: Job) -> None:
        """Send credit for what the client has consumed, in steps of a quarter window."""
        ahead = self._limits.ahead_samples
        if job.worker and job.credit_due(ahead):
            allowed = job.allowed(ahead)
            if job.worker.send(Credit(job.id, allowed)):
                job.grant(allowed, running_time())

    # --- end of a job ---------------------------------------------------------------------------

    def _abort(self, job: Job, error: ServiceError) -> None:
        """End the job; if it is done, give up what its client has not read."""
        if not job.stream.ended:
            self._end(job, error)
        elif not job.stream.error:
            log.info("job %s: unread audio dropped (%s: %s)", job.id, error.code, error.message)
            job.stream.abandon(error)

    def _end(self, job: Job, error: ServiceError | None) -> None:
        """End the job; later calls have no effect."""
        self._leave_queue(job)
        if job.stream.ended:
            return
        now = running_time()
        verb = f"failed ({error.code}: {error.message})" if error else "done"
        log.info("job %s %s: %s", job.id, verb, job.summary(now))
        job.stream.end(error)
        if error:
            self._failed(job, error.code)
        else:
            ran_s = now - (job.sent_at or job.accepted_at)
            audio_s = job.samples / SAMPLE_RATE
            self._metrics.job_done(len(job.request.text), audio_s, ran_s - job.paused_s)

    def _closed(self, job: Job, failure: ServiceError | None) -> None:
        """The reader has read everything, has failed, or its client has left."""
        self._open.discard(job)
        if not self._open:
            self._idle.set()
        self._leave_queue(job)
        self._crashes.clear(job.id)
        if failure:
            self._end(job, failure)
        if not job.stream.ended:
            log.info("job %s cancelled: %s", job.id, job.summary(running_time()))
            job.stream.end(ServerFault("the job was cancelled"))
            self._failed(job, CANCELLED)

    def _failed(self, job: Job, outcome: str) -> None:
        """Count the failure, and cancel the job on its worker at once."""
        if job.sent_at is None:
            self._metrics.job_waited(running_time() - job.accepted_at)
        self._metrics.job_failed(outcome)
        self._active_version += 1
        self._publish()

    def _running(self) -> list[Job]:
        return [job for worker in self._workers for job in worker.jobs.values()]

    def _publish(self) -> None:
        active = [job.id for job in self._running() if not job.stream.ended]
        self._broadcast(ActiveJobs(self._active_version, active))
