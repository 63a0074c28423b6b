"""A state machine test: clients, workers and time act on the dispatcher in any order."""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import app.backend.local.dispatcher as dispatcher_module
from app.backend.job_stream import JobStream, Restarted
from app.backend.local.dispatcher import MAX_JOB_CRASHES
from app.core.errors import (
    NotReady,
    QueueFull,
    ServerFault,
    ServiceError,
    WorkerLost,
    WorkerStalled,
)
from app.core.resume_point import ResumePoint
from app.ipc.messages import AudioChunk, JobCancelled, JobDone, JobFailed, JobPreempted, Synthesize
from tests.backend.local.dispatcher_env import (
    DispatcherEnv,
    FakeClock,
    FakeWorker,
    limits,
    name_of,
    pcm,
)

T = TypeVar("T")
PICK = st.integers(0, 99)
POINT = ResumePoint(1)


@dataclass
class Progress:
    """The messages that a fake worker has sent about one of its jobs."""

    started: bool = False
    chunks: int = 0
    samples: int = 0


class EndLogCounter(logging.Handler):
    """Counts how often the log reports the end of each job."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        job, verb = re.match(r"job (\S+) (\w+)", record.getMessage()).groups()  # type: ignore
        if verb in ("done", "failed", "cancelled"):
            self.count[name_of(job)] += 1


class AnyOrder(RuleBasedStateMachine):
    """Clients, workers and time act in any order; `on` tracks the jobs of each worker."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock(self.patch, self.loop)
        self.env = DispatcherEnv(limits(ahead_samples=8, client_stall_s=50))
        self.accepting = True
        self.streams: dict[str, JobStream] = {}
        self.left: set[str] = set()
        self.outcomes: dict[str, str] = {}
        self.workers: list[FakeWorker] = []
        self.on: dict[FakeWorker, dict[str, Progress]] = {}
        self.all_sent: list[tuple[FakeWorker, Synthesize]] = []
        self.deaths_of: Counter[str] = Counter()
        self.alone_until: dict[str, int] = {}  # chunks, by name of a suspect
        self.aside: set[str] = set()
        self.ends = EndLogCounter()
        dispatcher_module.log.addHandler(self.ends)
        dispatcher_module.log.setLevel(logging.INFO)
        for slots in (1, 2):
            self.come(slots)

    def teardown(self) -> None:
        try:
            self.end_everything()
        finally:
            dispatcher_module.log.setLevel(logging.NOTSET)
            dispatcher_module.log.removeHandler(self.ends)
            self.loop.close()
            self.patch.undo()

    def end_everything(self) -> None:
        """Check that each stream ends exactly once, and that nothing is left."""
        while self.workers:
            self.lose(0, WorkerLost)
        self.set_accepting(False)
        for name in self.streams:
            while name not in self.outcomes:
                assert self.streams[name].ended
                self.read(name)
        self.consistent()
        for name in self.streams:
            self.act(self.streams[name].close)
        self.loop.run_until_complete(self.env.dispatcher.wait_idle())
        assert self.env.dispatcher.waiting == self.env.dispatcher.running == 0
        assert self.ends.count == dict.fromkeys(self.streams, 1)

    def act(self, deed: Callable[..., T], *args: Any) -> T:
        """Call `deed` on the event loop, and note the jobs that workers were sent."""

        async def step() -> T:
            return deed(*args)

        result = self.loop.run_until_complete(step())
        self.note_sent()
        return result

    def note_sent(self) -> None:
        for worker in self.workers:
            noted = sum(target is worker for target, _ in self.all_sent)
            for job in worker.jobs_sent[noted:]:
                self.all_sent.append((worker, job))
                self.on[worker][job.job] = Progress()
                stream = self.streams.get(name_of(job.job))
                assert job.resume_point == POINT or not (stream and stream.committed)
                self.aside.discard(job.job)
                progress = self.on[worker][job.job]
                progress.chunks, progress.samples = job.chunks, job.samples

    # clients

    @rule()
    def submit(self) -> None:
        name = str(len(self.streams))
        full = self.env.dispatcher.waiting >= 3
        try:
            self.streams[name] = self.act(self.env.submit, name)
        except NotReady:
            assert not self.accepting
        except QueueFull:
            assert self.accepting
            assert full
        else:
            assert not full

    @precondition(lambda self: self.streams)
    @rule(pick=PICK, start=st.booleans())
    def take(self, pick: int, start: bool) -> None:
        self.read(str(pick % len(self.streams)), start)

    def read(self, name: str, start: bool = False) -> None:
        async def read() -> str | None:
            reading = asyncio.create_task(self.streams[name].read())
            await asyncio.sleep(0)
            reading.cancel()
            try:
                ended = await reading is None
                if start:
                    self.streams[name].commit()
            except ServiceError as error:
                return error.code
            except (Restarted, asyncio.CancelledError):
                return None
            return "done" if ended else None

        outcome = self.loop.run_until_complete(read())
        if outcome or name in self.outcomes:
            assert self.outcomes.setdefault(name, outcome or "more audio") == outcome

    @precondition(lambda self: self.streams)
    @rule(pick=PICK)
    def leave(self, pick: int) -> None:
        name = str(pick % len(self.streams))
        self.left.add(name)
        self.act(self.streams[name].close)

    # workers

    @precondition(lambda self: len(self.workers) < 4)
    @rule(slots=st.integers(1, 3))
    def come(self, slots: int) -> None:
        worker = FakeWorker("worker", slots)
        self.workers.append(worker)
        self.on[worker] = {}
        self.act(self.env.dispatcher.attach, worker)

    @precondition(lambda self: self.workers)
    @rule(pick=PICK, reason=st.sampled_from([WorkerLost, WorkerStalled]))
    def lose(self, pick: int, reason: type[ServerFault]) -> None:
        worker = self.workers[pick % len(self.workers)]
        self.workers.remove(worker)
        jobs = self.on.pop(worker)
        begun = {job: each for job, each in jobs.items() if each.started}
        resumed = {sent.job for _, sent in self.all_sent if sent.resume_point == POINT}
        self.aside |= {job for job in jobs.keys() & resumed - begun.keys() if self.is_active(job)}
        started = list(begun)
        self.alone_until |= {name_of(job): each.chunks + 1 for job, each in begun.items()}
        if len(started) == 1:
            self.deaths_of[started[0]] += 1
        self.act(self.env.dispatcher.detach, worker, reason("gone"))

    def busy(self) -> list[tuple[FakeWorker, str]]:
        return [(worker, job) for worker in self.workers for job in self.on[worker]]

    @precondition(lambda self: self.busy())
    @rule(pick=PICK)
    def start_job(self, pick: int) -> None:
        worker, job = self.busy()[pick % len(self.busy())]
        self.act(self.env.dispatcher.job_started, worker, job)
        self.on[worker][job].started = True

    @precondition(lambda self: self.busy())
    @rule(pick=PICK, samples=st.integers(0, 9), gap=st.sampled_from([0, 0, 0, 1]))
    def send_audio(self, pick: int, samples: int, gap: int) -> None:
        worker, job = self.busy()[pick % len(self.busy())]
        progress = self.on[worker][job]
        self.act(self.env.send, worker, AudioChunk(job, progress.chunks + gap), pcm(samples))
        progress.chunks += 1
        progress.samples += samples

    @precondition(lambda self: self.busy())
    @rule(pick=PICK, end=st.sampled_from(["done", "done", "short", "failed", "cancelled"]))
    def end(self, pick: int, end: str) -> None:
        worker, job = self.busy()[pick % len(self.busy())]
        progress = self.on[worker].pop(job)
        message = {
            "done": JobDone(job, progress.chunks, progress.samples),
            "short": JobDone(job, progress.chunks + 1, progress.samples),
            "failed": JobFailed(job, "engine_error", "it failed"),
            "cancelled": JobCancelled(job),
        }[end]
        self.act(self.env.send, worker, message)
        self.act(self.env.send, worker, message)  # has no effect

    @precondition(lambda self: self.busy() and self.accepting)
    @rule(pick=PICK)
    def preempted(self, pick: int) -> None:
        """A client hears the beginning of a job; others wait, so the job is preempted."""
        worker, job = self.busy()[pick % len(self.busy())]
        self.start_job(pick)
        self.send_audio(pick, 9, 0)
        self.read(name_of(job), start=True)
        while not self.env.dispatcher.waiting:
            self.submit()
        if worker.jobs[job].preempt_requested:
            progress = self.on[worker].pop(job)
            if self.is_active(job):
                self.aside.add(job)
            message = JobPreempted(job, progress.chunks, progress.samples, POINT)
            self.act(self.env.send, worker, message)

    # the backend

    @rule(seconds=st.sampled_from([1, 30, 61]))
    def wait(self, seconds: int) -> None:
        self.loop.run_until_complete(self.clock.forward(seconds))
        self.note_sent()

    @rule()
    def tick(self) -> None:
        busy = [job for _, job in self.busy()]
        self.act(self.env.dispatcher.tick)  # broadcasts, then may resume a preempted job
        active = self.env.broadcasts[-1].jobs
        assert sorted(active) == sorted(job for job in busy if self.is_active(job))

    @rule(accepting=st.sampled_from([True, True, False]))
    def set_accepting(self, accepting: bool) -> None:
        self.accepting = accepting
        self.act(self.env.dispatcher.set_accepting, accepting)

    # invariants

    def is_active(self, job: str) -> bool:
        return not self.streams[name_of(job)].ended

    @invariant()
    def consistent(self) -> None:
        dispatcher, running = self.env.dispatcher, [job for _, job in self.busy()]
        names = {name_of(job) for job in running}
        aside = {name_of(job) for job in self.aside if self.is_active(job)}
        waiting = [
            name
            for name, stream in self.streams.items()
            if not stream.ended and name not in names | aside
        ]
        assert dispatcher.running == len(running) == len(set(running))
        assert dispatcher.waiting == len(waiting)
        assert dispatcher.preempted == len(aside)
        for worker in self.workers:
            assert worker.jobs.keys() == self.on[worker].keys()
            assert len(worker.jobs) <= worker.slots
            progress = {name_of(job): each.chunks for job, each in self.on[worker].items()}
            alone = [n for n, chunks in progress.items() if chunks < self.alone_until.get(n, 0)]
            assert not alone or len(worker.jobs) == 1
            # no job waits while a slot is free, except a suspect and those that let it go first
            suspect_waits = worker.jobs and self.alone_until.keys() & {*waiting}
            assert worker.free <= (not waiting or bool(suspect_waits))

    @invariant()
    def ended_streams_stay_ended(self) -> None:
        for name in self.outcomes.keys() | self.left:
            assert self.streams[name].ended

    @invariant()
    def served_in_order_and_not_too_often(self) -> None:
        jobs = [int(name_of(job.job)) for _, job in self.all_sent]
        firsts = list(dict.fromkeys(jobs))
        assert firsts == sorted(firsts)
        for _, job in self.busy():
            assert self.deaths_of[job] < MAX_JOB_CRASHES

    @invariant()
    def workers_can_tell_which_jobs_are_active(self) -> None:
        if not self.env.broadcasts:
            return
        versions = [broadcast.version for broadcast in self.env.broadcasts]
        assert versions == sorted(versions)
        last = self.env.broadcasts[-1]
        since = {job.job: job.active_version for _, job in self.all_sent}
        for _, job in self.busy():
            if self.is_active(job):
                assert job in last.jobs or since[job] > last.version
            else:
                assert job not in last.jobs
                assert since[job] <= last.version


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
