"""The dispatcher: accepted jobs enter, each leaves by exactly one end of its stream.

Called by the speech route (`submit`, and through the stream it returns), by the supervisor
(`attach`, `detach`, `handle`) and by the master's clock (`tick`). It owns the queue, the map of
which worker has which job, and the streams; it knows neither processes nor HTTP.

    submit → queue (FIFO, bounded) → a worker with a free slot → JobStream → done | error | closed

A slot is busy from `Synthesize` until the worker's word that the job is over, or its death. A
worker begins when it was granted credit, in answer to its word that it has received the job: one
that dies before that did not die of the job.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from app.backend.local.job_stream import JobStream
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
    from_code,
)
from app.core.params import SynthesisParams
from app.ipc.messages import (
    AudioChunk,
    Broadcast,
    Credit,
    JobCancelled,
    JobDone,
    JobFailed,
    JobReceived,
    JobResult,
    LiveJobs,
    Synthesize,
    ToWorker,
    WorkerFailed,
)
from app.observability.metrics import CANCELLED, Metrics

log = logging.getLogger(__name__)

RESEND_S = 0.05
MAX_KILLS = 2
"""A job that may have killed so many workers is not given to another."""


@dataclass(frozen=True)
class Limits:
    """All bounds of the dispatcher; audio in samples, times in seconds."""

    queued: int
    queue_timeout_s: float
    ahead_samples: int
    client_stall_s: float


@dataclass(eq=False)
class Worker:
    """One ready worker process, as far as dispatching is concerned."""

    name: str
    slots: int
    send: Callable[[ToWorker], bool]
    jobs: dict[str, "Job"] = field(default_factory=dict)
    last_used: int = 0
    finished: int = 0

    @property
    def free(self) -> bool:
        return len(self.jobs) < self.slots


@dataclass(eq=False)
class Job:
    """One accepted request on its way."""

    id: str
    text: str
    voice: str | None
    params: SynthesisParams
    stream: JobStream
    accepted_at: float
    deadline: asyncio.TimerHandle | None = None
    worker: Worker | None = None
    kills: int = 0
    received: bool = False  # by its worker, which waits for credit
    granted: int = 0
    chunks: int = 0
    samples: int = 0
    sent_at: float | None = None
    ran_s: float = 0.0  # on workers that died
    first_audio_at: float | None = None
    dry_at: float = 0.0  # when a listener who plays it as it comes will have heard all of it
    paused_at: float | None = None  # it has no credit left: its client is slower than it is
    paused_s: float = 0.0


class Dispatcher:
    """See the module. All methods run on the event loop and none of them waits."""

    def __init__(
        self, limits: Limits, broadcast: Callable[[Broadcast], None], metrics: Metrics
    ) -> None:
        self._limits = limits
        self._broadcast = broadcast
        self._metrics = metrics
        self._queue: OrderedDict[str, Job] = OrderedDict()
        self._workers: list[Worker] = []
        self._open: set[JobStream] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._resending: asyncio.TimerHandle | None = None
        self._live_version = 0
        self._accepted = 0
        self._turn = 0
        self._accepting = False
        self.draining = False
        self.retries = 0
        self.samples = 0  # of all audio that came

    # --- what the speech route does -------------------------------------------------------------

    def submit(
        self, request_id: str, text: str, voice: str | None, params: SynthesisParams
    ) -> JobStream:
        """Accept a job, or raise `Draining`, `NotReady` or `QueueFull`."""
        self.ensure_accepting()
        waiting = len(self._queue)  # behind a free worker, too, if that takes no message
        if waiting >= self._limits.queued and (waiting or not self._free_worker()):
            raise QueueFull(f"{waiting} requests are waiting already")
        stream = JobStream()
        self._accepted += 1
        job = Job(f"{request_id}#{self._accepted}", text, voice, params, stream, monotonic())
        stream.on_consumed = lambda: self._grant(job)
        stream.on_close = lambda failure: self._closed(job, failure)
        self._open.add(stream)
        self._idle.clear()
        self._enqueue(job)
        self._dispatch()
        return stream

    def ensure_accepting(self) -> None:
        """Raise `Draining` or `NotReady` where no job at all would be accepted."""
        if self.draining:
            raise Draining("the server is shutting down")
        if not self._accepting:
            raise NotReady("no worker is ready yet")

    # --- what the supervisor does ---------------------------------------------------------------

    def attach(self, worker: Worker) -> None:
        """A worker is ready for jobs."""
        self._workers.append(worker)
        self._dispatch()

    def detach(
        self, worker: Worker, reason: ServerFault, last_words: WorkerFailed | None = None
    ) -> None:
        """A worker is gone, and all that it sent has been handled.

        Its jobs of which nothing has yet left for the client are given to another worker, unless
        they may have killed one before, or had begun and `reason` is not `WorkerLost`.
        """
        if worker in self._workers:
            self._workers.remove(worker)
        lost, worker.jobs = list(worker.jobs.values()), {}
        for job in reversed(lost):
            if _may_have_killed(job, last_words):
                job.kills += 1
            if job.stream.ended:
                continue
            if job.stream.committed or (job.granted and not isinstance(reason, WorkerLost)):
                self._end(job, reason)
            elif job.kills >= MAX_KILLS:
                self._end(job, PoisonRequest("the workers that tried this request died of it"))
            else:
                self.retries += 1
                log.info("job %s retried: worker=%s died before the answer", job.id, worker.name)
                job.worker = None
                if job.sent_at:
                    job.ran_s += monotonic() - job.sent_at
                job.stream.restart()
                self._enqueue(job, first=True)
        self._dispatch()

    def accept(self, accepting: bool) -> None:
        """Whether a worker is ready or will be again; if not, what waits is told so."""
        self._accepting = accepting
        if not accepting:
            for job in list(self._queue.values()):
                self._leave_queue(job)
                self._end(job, NotReady("no worker can be started"))

    def handle(self, worker: Worker, message: JobResult, pcm: bytes) -> None:
        """One message of a live worker's about one of its jobs."""
        job = worker.jobs.get(message.job)
        if job is None:
            return  # of a job it was never given: nobody's
        match message:
            case AudioChunk():
                self._chunk(job, message.seq, pcm)
                return
            case JobReceived():
                job.received = True
                self._grant(job)
                return
            case JobDone():
                worker.finished += 1
                self._done(job, message)
            case JobFailed():
                self._end(job, from_code(message.code, message.message, message.param))
            case JobCancelled():
                self._end(job, ServerFault("the job was cancelled"))
        job.worker = None
        del worker.jobs[job.id]
        self._dispatch()

    # --- what the master does -------------------------------------------------------------------

    def tick(self) -> None:
        """Twice a second: repeat what may have been lost, look for stalled clients."""
        self._publish()
        now = monotonic()
        for job in self._running():
            if job.stream.ended:
                continue
            self._grant(job)
            if job.stream.unread_for_s(now) > self._limits.client_stall_s:
                self._end(job, ClientStalled("the client took nothing for too long"))

    def drain(self) -> None:
        """Accept nothing more; what was accepted goes on."""
        self.draining = True

    async def idle(self) -> None:
        """Returns when no stream is open."""
        await self._idle.wait()

    def abort(self) -> None:
        """End every open stream with an error."""
        for job in [*self._queue.values(), *self._running()]:
            self._leave_queue(job)
            self._end(job, Draining("the server is shutting down"))

    @property
    def limit(self) -> int:
        return self._limits.queued

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def running(self) -> int:
        return sum(len(worker.jobs) for worker in self._workers)

    # --- inside ---------------------------------------------------------------------------------

    def _enqueue(self, job: Job, *, first: bool = False) -> None:
        self._queue[job.id] = job
        if first:
            self._queue.move_to_end(job.id, last=False)
        waited_s = monotonic() - job.accepted_at - job.ran_s
        left_s = self._limits.queue_timeout_s - waited_s
        job.deadline = asyncio.get_running_loop().call_later(left_s, self._timed_out, job)

    def _leave_queue(self, job: Job) -> None:
        self._queue.pop(job.id, None)
        if job.deadline:
            job.deadline.cancel()

    def _timed_out(self, job: Job) -> None:
        self._leave_queue(job)
        self._end(
            job, QueueTimeout(f"no worker was free within {self._limits.queue_timeout_s:g} s")
        )

    def _free_worker(self) -> Worker | None:
        free = [worker for worker in self._workers if worker.free]
        return min(free, key=lambda worker: worker.last_used, default=None)

    def _dispatch(self) -> None:
        while self._queue and (worker := self._free_worker()):
            job = next(iter(self._queue.values()))
            self._leave_queue(job)
            if not self._start(job, worker):
                self._enqueue(job, first=True)
                self._dispatch_again_soon()
                return

    def _dispatch_again_soon(self) -> None:
        if self._resending:
            self._resending.cancel()
        self._resending = asyncio.get_running_loop().call_later(RESEND_S, self._dispatch)

    def _start(self, job: Job, worker: Worker) -> bool:
        """False if the worker takes no message: it is not connected yet, or not for long."""
        self._turn += 1
        worker.last_used = self._turn
        worker.jobs[job.id] = job
        job.worker = worker
        self._live_version += 1
        job.chunks = job.samples = job.granted = 0
        job.received, job.paused_at, job.paused_s = False, None, 0.0
        message = Synthesize(job.id, job.text, job.voice, job.params, self._live_version)
        if not worker.send(message):
            job.worker = None
            del worker.jobs[job.id]
            return False
        now = monotonic()
        if job.sent_at is None:
            self._metrics.job_waited(now - job.accepted_at)
        job.sent_at, job.first_audio_at = now, None
        log.debug("job %s sent to worker %s", job.id, worker.name)
        return True

    def _chunk(self, job: Job, seq: int, pcm: bytes) -> None:
        if job.stream.ended:
            return
        if seq != job.chunks:
            self._end(job, WorkerLost(f"audio chunk {seq} came in place of {job.chunks}"))
            return
        now, samples = monotonic(), len(pcm) // BYTES_PER_SAMPLE
        if job.first_audio_at is None:
            job.first_audio_at = job.dry_at = now
            self._metrics.first_audio(now - job.accepted_at)
        elif now > job.dry_at:
            self._metrics.underrun(now - job.dry_at)
            job.dry_at = now
        job.dry_at += samples / SAMPLE_RATE
        job.chunks += 1
        job.samples += samples
        self.samples += samples
        if job.samples >= job.granted:
            job.paused_at = now
        job.stream.put(pcm)

    def _done(self, job: Job, message: JobDone) -> None:
        if (message.chunks, message.samples) == (job.chunks, job.samples):
            self._end(job, None)
        else:
            self._end(job, WorkerLost("audio was lost between worker and master"))

    def _end(self, job: Job, error: ServiceError | None) -> None:
        """The one terminal event of a job; a second one is no event."""
        if job.stream.ended:
            return
        verb = f"failed ({error.code}: {error.message})" if error else "done"
        log.info("job %s %s: %s", job.id, verb, _account(job))
        job.stream.end(error)
        if error:
            self._count_failure(job, error.code)
            self._cancel_on_worker()
        else:
            ran_s = monotonic() - (job.sent_at or job.accepted_at)
            audio_s = job.samples / SAMPLE_RATE
            self._metrics.job_done(len(job.text), audio_s, ran_s - job.paused_s)

    def _grant(self, job: Job) -> None:
        """By what the client has taken, let the worker begin or go on, in quarter windows."""
        if not job.worker or not job.received:
            return
        allowed = job.stream.consumed_samples + self._limits.ahead_samples
        due = allowed - job.granted >= self._limits.ahead_samples // 4
        if due and job.worker.send(Credit(job.id, allowed)):
            job.granted = allowed
            self._resumed(job)

    def _resumed(self, job: Job) -> None:
        now = monotonic()
        if job.paused_at is not None:
            job.paused_s += now - job.paused_at
            job.paused_at = None
        # Who has not taken audio has not played it: a listener who paused does not run dry.
        job.dry_at = max(
            job.dry_at, now + (job.samples - job.stream.consumed_samples) / SAMPLE_RATE
        )

    def _closed(self, job: Job, failure: ServiceError | None) -> None:
        """The route is done with the stream: it has all, or has failed, or its client has left."""
        self._open.discard(job.stream)
        if not self._open:
            self._idle.set()
        self._leave_queue(job)
        if failure:
            self._end(job, failure)
        if not job.stream.ended:
            log.info("job %s cancelled: %s", job.id, _account(job))
            job.stream.end(ServerFault("the job was cancelled"))
            self._count_failure(job, CANCELLED)
            self._cancel_on_worker()

    def _count_failure(self, job: Job, outcome: str) -> None:
        if job.sent_at is None:
            self._metrics.job_waited(monotonic() - job.accepted_at)
        self._metrics.job_failed(outcome)

    def _running(self) -> list[Job]:
        return [job for worker in self._workers for job in worker.jobs.values()]

    def _cancel_on_worker(self) -> None:
        """A job has left the live ones: say so at once."""
        self._live_version += 1
        self._publish()

    def _publish(self) -> None:
        live = [job.id for job in self._running() if not job.stream.ended]
        self._broadcast(LiveJobs(self._live_version, live))


def _may_have_killed(job: Job, last_words: WorkerFailed | None) -> bool:
    """Whether its worker died of it: of any that had begun, unless it could say of which."""
    return job.granted > 0 and (last_words is None or last_words.job == job.id)


def _account(job: Job) -> str:
    """Of a job that ends now, what an operator wants to know, and nothing of what it says."""
    now = monotonic()
    figures = {
        "characters": f"{len(job.text)}",
        "worker": job.worker and job.worker.name,
        "wait_s": f"{(job.sent_at or now) - job.accepted_at:.3f}",
        "first_audio_s": job.first_audio_at and f"{job.first_audio_at - job.accepted_at:.3f}",
        "audio_s": f"{job.samples / SAMPLE_RATE:.3f}",
        "total_s": f"{now - job.accepted_at:.3f}",
    }
    return " ".join(f"{name}={value}" for name, value in figures.items() if value)
