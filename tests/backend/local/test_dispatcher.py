"""Workers are played here: what the dispatcher sends them is kept, what they would say is handled.

Time stands still until the `Clock` is told to move.
"""

import asyncio
import gc
import logging
import re
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import app.backend.local.dispatcher as dispatcher_module
import app.backend.local.job_stream as stream_module
from app.backend.local.dispatcher import MAX_KILLS, Dispatcher, Limits, Worker
from app.backend.local.job_stream import JobStream, Restarted
from app.core.errors import (
    ClientStalled,
    Draining,
    EncoderFailed,
    EngineFailed,
    NotReady,
    PoisonRequest,
    QueueFull,
    QueueTimeout,
    ServerFault,
    ServiceError,
    WorkerLost,
    WorkerStalled,
)
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
from app.observability.metrics import Metrics
from tests.ipc.test_messages import PARAMS

T = TypeVar("T")

LIMITS = Limits(queued=3, queue_timeout_s=60, ahead_samples=1000, client_stall_s=600)


class PlayedWorker(Worker):
    """A ready worker: `inbox` is all it was sent."""

    def __init__(self, name: str, slots: int = 1) -> None:
        super().__init__(name, slots, self._take)
        self.inbox: list[ToWorker] = []
        self.deaf = False

    def _take(self, message: ToWorker) -> bool:
        if not self.deaf:
            self.inbox.append(message)
        return not self.deaf

    @property
    def given(self) -> list[Synthesize]:
        return [message for message in self.inbox if isinstance(message, Synthesize)]

    @property
    def credits(self) -> list[int]:
        return [message.samples for message in self.inbox if isinstance(message, Credit)]


class Bench:
    """A dispatcher that accepts, its broadcasts, and the means to play its worker's part."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.broadcasts: list[LiveJobs] = []
        self.metrics = Metrics()
        self.dispatcher = Dispatcher(limits, self._keep, self.metrics)
        self.dispatcher.accept(True)

    def _keep(self, message: Broadcast) -> None:
        assert isinstance(message, LiveJobs)
        self.broadcasts.append(message)

    def submit(self, name: str) -> JobStream:
        return self.dispatcher.submit(name, f"text of {name}", None, PARAMS)

    def attach(self, *names: str, slots: int = 1) -> list[PlayedWorker]:
        workers = [PlayedWorker(name, slots) for name in names]
        for worker in workers:
            self.dispatcher.attach(worker)
        return workers

    def say(self, worker: Worker, message: JobResult, pcm: bytes = b"") -> None:
        self.dispatcher.handle(worker, message, pcm)

    def receive(self, worker: PlayedWorker) -> None:
        """The worker has its newest job."""
        self.say(worker, JobReceived(worker.given[-1].job))

    def finish(self, worker: PlayedWorker, chunks: int = 0, samples: int = 0) -> None:
        """The worker's newest job is done."""
        self.say(worker, JobDone(worker.given[-1].job, chunks, samples))

    def live(self) -> list[str]:
        """The names of the live jobs, as broadcast last."""
        return [name_of(job) for job in self.broadcasts[-1].jobs]


class Clock:
    """The time of the event loop, of the dispatcher and of its streams; moves when it is told."""

    def __init__(self, patch: pytest.MonkeyPatch, loop: asyncio.AbstractEventLoop) -> None:
        self.now = loop.time()
        patch.setattr(loop, "time", self._read)
        for module in (dispatcher_module, stream_module):
            patch.setattr(module, "monotonic", self._read)

    def _read(self) -> float:
        return self.now

    async def forward(self, seconds: float) -> None:
        """What became due meanwhile has happened."""
        self.now += seconds
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch, asyncio.get_running_loop())


def name_of(job: str) -> str:
    return job.partition("#")[0]


def given_to(*workers: PlayedWorker) -> list[list[str]]:
    return [[name_of(job.job) for job in worker.given] for worker in workers]


def pcm(samples: int) -> bytes:
    return bytes(2 * samples)


async def ends_with(stream: JobStream, error: type[ServiceError]) -> bool:
    """The stream has ended, and with exactly this kind of error."""
    assert stream.ended
    with pytest.raises(ServiceError) as caught:
        await stream.read()
    return type(caught.value) is error


# --- who comes when, and who gets what ------------------------------------------------------------


async def test_first_come_first_served() -> None:
    bench = Bench()
    for name in "abc":
        bench.submit(name)
    [worker] = bench.attach("w")
    for _ in "abc":
        bench.finish(worker)
    assert given_to(worker) == [["a", "b", "c"]]


async def test_a_worker_has_no_more_jobs_than_slots() -> None:
    bench = Bench()
    for name in "abc":
        bench.submit(name)
    [worker] = bench.attach("w", slots=2)
    assert given_to(worker) == [["a", "b"]]
    assert (bench.dispatcher.running, bench.dispatcher.waiting) == (2, 1)


async def test_the_worker_that_waited_longest_is_next() -> None:
    bench = Bench()
    first, second, third = bench.attach("1", "2", "3")
    for name in "abc":
        bench.submit(name)
    for worker in (third, first, second):
        bench.finish(worker)
    for name in "def":
        bench.submit(name)
    assert given_to(first, second, third) == [["a", "d"], ["b", "e"], ["c", "f"]]


async def test_jobs_are_spread_before_they_share_a_worker() -> None:
    bench = Bench()
    first, second = bench.attach("1", "2", slots=2)
    for name in "abcd":
        bench.submit(name)
    assert given_to(first, second) == [["a", "c"], ["b", "d"]]


async def test_a_job_is_sent_as_it_was_accepted() -> None:
    bench = Bench()
    [worker] = bench.attach("w")
    bench.dispatcher.submit("r", "a text", "digest", PARAMS)
    [job] = worker.given
    assert (job.text, job.voice, job.params) == ("a text", "digest", PARAMS)


async def test_two_requests_of_one_id_are_two_jobs() -> None:
    bench = Bench()
    [worker] = bench.attach("w", slots=2)
    bench.submit("same")
    bench.submit("same")
    assert len({job.job for job in worker.given}) == 2


# --- limits ---------------------------------------------------------------------------------------


async def test_a_full_queue_takes_no_more() -> None:
    bench = Bench()
    bench.attach("w")
    for name in "abcd":  # one is running, three wait
        bench.submit(name)
    with pytest.raises(QueueFull):
        bench.submit("e")
    assert bench.dispatcher.waiting == 3


async def test_without_a_queue_a_free_slot_still_takes_a_job() -> None:
    bench = Bench(Limits(0, 60, 1000, 600))
    bench.attach("w")
    bench.submit("a")
    with pytest.raises(QueueFull):
        bench.submit("b")


@pytest.mark.parametrize("limit", [0, 3])
async def test_a_worker_that_takes_no_message_does_not_lift_the_limit(limit: int) -> None:
    bench = Bench(Limits(limit, 60, 1000, 600))
    bench.dispatcher.attach(Worker("deaf", 1, lambda message: False))
    for _ in range(max(limit, 1)):
        bench.submit("a")
    with pytest.raises(QueueFull):
        bench.submit("b")


async def test_a_worker_that_takes_no_message_is_asked_at_one_pace(clock: Clock) -> None:
    asked: list[ToWorker] = []

    def refuse(message: ToWorker) -> bool:
        asked.append(message)
        return False

    bench = Bench()
    bench.dispatcher.attach(Worker("deaf", 1, refuse))
    for name in "abc":
        bench.submit(name)
    asked.clear()
    for _ in range(10):
        await clock.forward(dispatcher_module.RESEND_S)
    assert len(asked) == 10


async def test_who_waits_too_long_is_told_and_never_runs(clock: Clock) -> None:
    bench = Bench()
    stream = bench.submit("a")
    await clock.forward(59)
    assert not stream.ended
    await clock.forward(2)
    assert await ends_with(stream, QueueTimeout)
    [worker] = bench.attach("w")
    assert worker.given == []


async def test_a_running_job_has_no_queue_timeout(clock: Clock) -> None:
    bench = Bench()
    bench.attach("w")
    stream = bench.submit("a")
    await clock.forward(61)
    assert not stream.ended


async def test_before_a_worker_was_ready_nothing_is_accepted() -> None:
    bench = Bench()
    bench.dispatcher.accept(False)
    with pytest.raises(NotReady):
        bench.submit("a")


async def test_when_no_worker_will_come_those_who_wait_are_told() -> None:
    bench = Bench()
    stream = bench.submit("a")
    bench.dispatcher.accept(False)
    assert await ends_with(stream, NotReady)
    assert bench.dispatcher.waiting == 0


# --- how a job ends -------------------------------------------------------------------------------


async def test_audio_reaches_the_client_in_order_and_to_the_end() -> None:
    bench = Bench()
    [worker] = bench.attach("w")
    stream = bench.submit("a")
    job = worker.given[0].job
    bench.say(worker, AudioChunk(job, 0), b"\0\0" * 5)
    bench.say(worker, AudioChunk(job, 1), b"\1\1" * 7)
    bench.finish(worker, chunks=2, samples=12)
    assert [await stream.read() for _ in range(3)] == [b"\0\0" * 5, b"\1\1" * 7, None]
    assert bench.dispatcher.running == 0
    assert bench.broadcasts == []  # nobody had to be told


@pytest.mark.parametrize(("seq", "before"), [(1, 0), (0, 1), (2, 1)])
async def test_a_gap_in_the_audio_fails_the_stream(seq: int, before: int) -> None:
    bench = Bench()
    [worker] = bench.attach("w")
    stream = bench.submit("a")
    job = worker.given[0].job
    for number in range(before):
        bench.say(worker, AudioChunk(job, number), pcm(5))
    bench.say(worker, AudioChunk(job, seq), pcm(5))
    assert await ends_with(stream, WorkerLost)
    assert bench.live() == []


@pytest.mark.parametrize(("chunks", "samples"), [(0, 0), (2, 5), (1, 6), (1, 4)])
async def test_totals_that_do_not_match_fail_the_stream(chunks: int, samples: int) -> None:
    bench = Bench()
    [worker] = bench.attach("w")
    stream = bench.submit("a")
    bench.say(worker, AudioChunk(worker.given[0].job, 0), pcm(5))
    bench.finish(worker, chunks, samples)
    assert await ends_with(stream, WorkerLost)


async def test_a_failure_keeps_its_code() -> None:
    bench = Bench()
    [worker] = bench.attach("w")
    stream = bench.submit("a")
    bench.say(worker, JobFailed(worker.given[0].job, "engine_error", "it failed"))
    assert await ends_with(stream, EngineFailed)


async def test_a_failure_keeps_the_name_of_the_parameter() -> None:
    bench = Bench()
    [worker] = bench.attach("w")
    stream = bench.submit("a")
    bench.say(worker, JobFailed(worker.given[0].job, "empty_text", "nothing to say", "text"))
    assert stream.error
    assert stream.error.param == "text"


async def test_a_client_that_leaves_keeps_its_slot_busy_until_the_work_has_stopped() -> None:
    bench = Bench()
    [worker] = bench.attach("w")
    bench.submit("a").close()
    bench.submit("b")
    assert bench.live() == []
    assert given_to(worker) == [["a"]]
    bench.say(worker, JobCancelled(worker.given[0].job))
    assert given_to(worker) == [["a", "b"]]


async def test_a_client_that_leaves_the_queue_is_never_served() -> None:
    bench = Bench()
    stream, other = bench.submit("a"), bench.submit("b")
    stream.close()
    [worker] = bench.attach("w", slots=2)
    assert given_to(worker) == [["b"]]
    assert not other.ended


@pytest.mark.parametrize("complete", [False, True])
async def test_an_abandoned_stream_does_not_wait_for_the_garbage_collector(complete: bool) -> None:
    bench = Bench()
    [worker] = bench.attach("w")
    gc.disable()
    try:
        stream = bench.submit("a")
        bench.say(worker, AudioChunk(worker.given[0].job, 0), pcm(5))
        if complete:
            bench.finish(worker, 1, 5)
        stream.close()
        if not complete:
            bench.say(worker, JobCancelled(worker.given[0].job))
        left = weakref.ref(stream)
        del stream
        assert left() is None
    finally:
        gc.enable()


async def test_a_client_that_takes_nothing_is_cancelled_after_a_while(clock: Clock) -> None:
    bench = Bench()
    [worker] = bench.attach("w")
    stream = bench.submit("a")
    bench.say(worker, AudioChunk(worker.given[0].job, 0), pcm(5))
    await clock.forward(599)
    bench.dispatcher.tick()
    assert not stream.ended
    await clock.forward(2)
    bench.dispatcher.tick()
    assert await ends_with(stream, ClientStalled)
    assert bench.live() == []


async def test_a_client_that_waits_for_a_slow_worker_has_not_stalled(clock: Clock) -> None:
    bench = Bench()
    bench.attach("w")
    stream = bench.submit("a")
    await clock.forward(10_000)
    bench.dispatcher.tick()
    assert not stream.ended


async def test_a_finished_job_waits_for_its_client(clock: Clock) -> None:
    bench = Bench()
    [worker] = bench.attach("w")
    stream = bench.submit("a")
    bench.say(worker, AudioChunk(worker.given[0].job, 0), pcm(5))
    bench.finish(worker, 1, 5)
    await clock.forward(10_000)
    bench.dispatcher.tick()
    assert [await stream.read(), await stream.read()] == [pcm(5), None]


async def test_what_nobody_asked_for_changes_nothing() -> None:
    bench = Bench()
    one, other = bench.attach("1", "2")
    stream = bench.submit("a")
    job = one.given[0].job
    for message in (JobDone(job, 0, 0), JobFailed(job, "engine_error", "no"), JobCancelled(job)):
        bench.say(other, message)
    assert not stream.ended
    assert bench.dispatcher.running == 1


# --- when a worker dies ---------------------------------------------------------------------------


async def test_a_job_of_which_nothing_was_heard_is_tried_again_first_of_all() -> None:
    bench = Bench()
    one, other = bench.attach("1", "2")
    stream = bench.submit("a")
    for name in "bcd":
        bench.submit(name)
    bench.say(one, AudioChunk(one.given[0].job, 0), b"\1\1" * 5)
    await stream.read()  # taken, but not on its way to the client
    bench.dispatcher.detach(one, WorkerLost("it died"))
    with pytest.raises(Restarted):
        await stream.read()
    bench.finish(other)
    assert given_to(other) == [["b", "a"]]
    bench.say(other, AudioChunk(other.given[-1].job, 0), b"\2\2" * 7)
    bench.finish(other, 1, 7)
    assert [await stream.read(), await stream.read()] == [b"\2\2" * 7, None]


async def test_a_retry_says_the_same() -> None:
    bench = Bench()
    one, other = bench.attach("1", "2")
    bench.submit("a")
    bench.dispatcher.detach(one, WorkerLost("it died"))
    [first], [second] = one.given, other.given
    assert (first.text, first.params) == (second.text, second.params)
    assert second.live_version > first.live_version


async def test_jobs_that_are_tried_again_keep_their_order() -> None:
    bench = Bench()
    [worker] = bench.attach("w", slots=3)
    for name in "abcd":
        bench.submit(name)
    bench.dispatcher.detach(worker, WorkerLost("it died"))
    [heir] = bench.attach("heir", slots=4)
    assert given_to(heir) == [["a", "b", "c", "d"]]


async def test_a_job_that_was_heard_is_not_tried_again() -> None:
    bench = Bench()
    one, other = bench.attach("1", "2")
    stream = bench.submit("a")
    bench.say(one, AudioChunk(one.given[0].job, 0), pcm(5))
    await stream.read()
    stream.commit()
    bench.dispatcher.detach(one, WorkerLost("it died"))
    assert await ends_with(stream, WorkerLost)
    assert other.given == []


async def test_a_job_that_kills_two_workers_is_poison() -> None:
    bench = Bench()
    workers = bench.attach("1", "2", "3")
    stream = bench.submit("a")
    for worker in workers[:2]:
        assert not stream.ended
        bench.receive(worker)
        bench.dispatcher.detach(worker, WorkerLost("it died"))
    assert await ends_with(stream, PoisonRequest)
    assert given_to(*workers) == [["a"], ["a"], []]


async def test_a_job_is_not_to_blame_for_workers_that_died_before_they_received_it() -> None:
    bench = Bench()
    *dead, alive = bench.attach("1", "2", "3", "4")
    stream = bench.submit("a")
    bench.receive(dead[0])  # and may have killed that one
    for worker in dead:
        bench.dispatcher.detach(worker, WorkerLost("it died"))
    assert given_to(alive) == [["a"]]
    assert not stream.ended


async def test_a_job_that_was_only_near_is_tried_again_as_often_as_need_be() -> None:
    bench = Bench()
    workers = bench.attach("1", "2", "3")
    stream = bench.submit("a")
    for worker, job in zip(workers[:2], ("another", None), strict=True):
        bench.receive(worker)
        bench.dispatcher.detach(worker, WorkerLost("it died"), WorkerFailed("broken", job))
    assert not stream.ended
    assert given_to(*workers) == [["a"], ["a"], ["a"]]


async def test_a_job_that_two_workers_name_when_they_die_is_poison() -> None:
    bench = Bench()
    workers = bench.attach("1", "2", "3")
    stream = bench.submit("a")
    for worker in workers[:2]:
        bench.receive(worker)
        last_words = WorkerFailed("broken", worker.given[0].job)
        bench.dispatcher.detach(worker, WorkerLost("it died"), last_words)
    assert await ends_with(stream, PoisonRequest)


async def test_a_job_whose_worker_hangs_is_not_tried_again() -> None:
    bench = Bench()
    one, other = bench.attach("1", "2")
    stream = bench.submit("a")
    bench.receive(one)
    bench.dispatcher.detach(one, WorkerStalled("no step"))
    assert await ends_with(stream, WorkerStalled)
    assert other.given == []


async def test_a_job_that_never_reached_a_worker_that_hangs_is_given_to_another() -> None:
    bench = Bench()
    one, other = bench.attach("1", "2")
    stream = bench.submit("a")
    bench.dispatcher.detach(one, WorkerStalled("no step"))
    assert [job.job for job in other.given] == [job.job for job in one.given]
    assert not stream.ended


async def test_a_job_whose_client_has_left_is_not_tried_again() -> None:
    bench = Bench()
    one, other = bench.attach("1", "2")
    bench.submit("a").close()
    bench.dispatcher.detach(one, WorkerLost("it died"))
    assert other.given == []
    assert bench.dispatcher.running == 0


async def test_a_job_that_is_tried_again_waits_no_longer_than_any_other(clock: Clock) -> None:
    bench = Bench()
    stream = bench.submit("a")
    await clock.forward(50)
    [worker] = bench.attach("w")
    await clock.forward(1000)  # which is no waiting
    bench.dispatcher.detach(worker, WorkerLost("it died"))
    await clock.forward(9)
    assert not stream.ended
    await clock.forward(2)
    assert await ends_with(stream, QueueTimeout)


async def test_a_late_death_is_no_reason_not_to_use_a_free_worker(clock: Clock) -> None:
    bench = Bench()
    one, other = bench.attach("1", "2")
    stream = bench.submit("a")
    await clock.forward(1000)
    bench.dispatcher.detach(one, WorkerLost("it died"))
    await clock.forward(1)
    assert given_to(other) == [["a"]]
    assert not stream.ended


async def test_a_worker_that_takes_no_message_does_not_prolong_the_wait(clock: Clock) -> None:
    bench = Bench()
    bench.dispatcher.attach(Worker("deaf", 1, lambda message: False))
    stream = bench.submit("a")
    for _ in range(61):
        assert not stream.ended
        await clock.forward(1)
    assert await ends_with(stream, QueueTimeout)


# --- credit ---------------------------------------------------------------------------------------


async def test_credit_is_given_in_quarter_windows() -> None:
    bench = Bench()
    [worker] = bench.attach("w")
    stream = bench.submit("a")
    assert worker.credits == []
    bench.receive(worker)
    assert worker.credits == [1000]
    for seq in range(10):
        bench.say(worker, AudioChunk(worker.given[0].job, seq), pcm(100))
    granted = []
    for _ in range(10):
        await stream.read()
        granted.append(list(worker.credits))
    assert worker.credits == [1000, 1300, 1600, 1900]
    assert [len(credits) for credits in granted] == [1, 1, 2, 2, 2, 3, 3, 3, 4, 4]


async def test_a_client_that_takes_all_never_leaves_its_worker_without_credit() -> None:
    for window in (1, 2, 3, 7, 1000):
        bench = Bench(Limits(3, 60, window, 600))
        [worker] = bench.attach("w")
        stream = bench.submit("a")
        bench.receive(worker)
        for seq in range(50):
            assert max(worker.credits) > seq
            bench.say(worker, AudioChunk(worker.given[0].job, seq), pcm(1))
            await stream.read()


async def test_a_job_that_is_tried_again_begins_with_new_credit() -> None:
    bench = Bench()
    one, other = bench.attach("1", "2")
    stream = bench.submit("a")
    bench.receive(one)
    bench.say(one, AudioChunk(one.given[0].job, 0), pcm(900))
    await stream.read()
    assert one.credits == [1000, 1900]
    bench.dispatcher.detach(one, WorkerLost("it died"))
    bench.receive(other)
    assert other.credits == [1000]
    bench.say(other, AudioChunk(other.given[0].job, 0), pcm(300))
    with pytest.raises(Restarted):
        await stream.read()
    await stream.read()
    assert other.credits == [1000, 1300]


async def test_credit_that_could_not_be_given_is_given_soon() -> None:
    bench = Bench()
    [worker] = bench.attach("w")
    stream = bench.submit("a")
    worker.deaf = True
    bench.receive(worker)
    worker.deaf = False
    bench.dispatcher.tick()
    assert worker.credits == [1000]
    bench.say(worker, AudioChunk(worker.given[0].job, 0), pcm(1000))
    worker.deaf = True
    await stream.read()  # all that there is
    worker.deaf = False
    for _ in range(2):
        bench.dispatcher.tick()
        assert worker.credits == [1000, 2000]


async def test_a_job_that_was_not_received_gets_no_credit() -> None:
    bench = Bench()
    one, other = bench.attach("1", "2")
    bench.submit("a")
    bench.dispatcher.tick()
    bench.receive(one)
    bench.dispatcher.detach(one, WorkerLost("it died"))
    bench.dispatcher.tick()
    assert (one.credits, other.credits) == ([1000], [])


async def test_a_finished_job_gets_no_credit() -> None:
    bench = Bench()
    [worker] = bench.attach("w")
    stream = bench.submit("a")
    bench.receive(worker)
    bench.say(worker, AudioChunk(worker.given[0].job, 0), pcm(1000))
    bench.finish(worker, 1, 1000)
    await stream.read()
    assert worker.credits == [1000]


# --- which jobs live ------------------------------------------------------------------------------


async def test_the_live_jobs_are_those_that_run_and_are_wanted() -> None:
    bench = Bench()
    bench.attach("w", slots=3)
    bench.submit("a")
    leaves = bench.submit("b")
    for name in "cd":
        bench.submit(name)
    leaves.close()
    assert bench.live() == ["a", "c"]
    bench.dispatcher.tick()
    assert bench.live() == ["a", "c"]


async def test_a_list_is_never_newer_than_a_job_that_is_not_on_it() -> None:
    bench = Bench()
    [worker] = bench.attach("w", slots=2)
    bench.submit("a").close()
    bench.submit("b")
    assert worker.given[1].live_version > bench.broadcasts[-1].version
    bench.dispatcher.tick()
    assert bench.broadcasts[-1].version >= worker.given[1].live_version
    assert bench.live() == ["b"]


# --- the end of the service -----------------------------------------------------------------------


async def test_draining_takes_nothing_new_and_finishes_the_rest() -> None:
    bench = Bench()
    [worker] = bench.attach("w")
    bench.submit("a")
    waiting = bench.submit("b")
    bench.dispatcher.drain()
    with pytest.raises(Draining):
        bench.submit("c")
    bench.finish(worker)
    bench.finish(worker)
    assert await waiting.read() is None


async def test_the_dispatcher_is_idle_when_the_last_stream_is_closed() -> None:
    bench = Bench()
    [worker] = bench.attach("w")
    idle = asyncio.create_task(bench.dispatcher.idle())
    await idle
    streams = [bench.submit("a"), bench.submit("b")]
    idle = asyncio.create_task(bench.dispatcher.idle())
    bench.finish(worker)
    bench.finish(worker)
    for stream in streams:
        await asyncio.sleep(0)
        assert not idle.done()
        stream.close()
    await idle


async def test_an_abort_ends_every_stream() -> None:
    bench = Bench()
    bench.attach("w")
    running, waiting = bench.submit("a"), bench.submit("b")
    bench.dispatcher.abort()
    assert await ends_with(running, Draining)
    assert await ends_with(waiting, Draining)
    assert bench.live() == []


async def test_an_abort_leaves_what_is_complete_complete() -> None:
    bench = Bench()
    [worker] = bench.attach("w")
    stream = bench.submit("a")
    bench.finish(worker)
    bench.dispatcher.abort()
    assert await stream.read() is None


# --- what is counted ------------------------------------------------------------------------------


SECOND = 24_000


def counted(bench: Bench, name: str, **labels: str) -> float:
    value = bench.metrics.registry.get_sample_value(name, labels)
    assert value is not None
    return value


async def play(
    bench: Bench, worker: PlayedWorker, clock: Clock, *pieces: tuple[float, float]
) -> JobStream:
    """Of a new job, pieces that come so many seconds after the last and are so long; all taken."""
    stream = bench.submit("a")
    bench.receive(worker)
    for number, (after_s, audio_s) in enumerate(pieces):
        await clock.forward(after_s)
        audio = AudioChunk(worker.given[-1].job, number)
        bench.say(worker, audio, pcm(round(audio_s * SECOND)))
        await stream.read()
    return stream


LONG = Limits(queued=3, queue_timeout_s=60, ahead_samples=60 * SECOND, client_stall_s=600)


@pytest.mark.parametrize(
    ("pieces", "gaps", "silence_s"),
    [
        ([(0.5, 1)], 0, 0),
        ([(0.5, 1), (0.9, 1), (1, 1)], 0, 0),
        ([(0.5, 1), (1.5, 1)], 1, 0.5),
        ([(0.5, 1), (1.5, 1), (1, 1)], 1, 0.5),  # who has waited hears all later
        ([(0.5, 1), (1.5, 1), (1.25, 1)], 2, 0.75),
        ([(0.5, 3), (1, 0.1), (2.5, 1)], 1, 0.4),
    ],
)
async def test_a_listener_who_runs_dry_is_counted(
    clock: Clock, pieces: list[tuple[float, float]], gaps: int, silence_s: float
) -> None:
    bench = Bench(LONG)
    [worker] = bench.attach("w")
    clock.now = 1024.0  # sums are exact
    await play(bench, worker, clock, *pieces)
    assert counted(bench, "tts_underruns_total") == gaps
    assert counted(bench, "tts_underrun_seconds_total") == pytest.approx(silence_s)
    assert counted(bench, "tts_job_first_audio_seconds_sum") == 0.5


async def test_a_listener_who_pauses_does_not_run_dry(clock: Clock) -> None:
    bench = Bench(LONG)
    [worker] = bench.attach("w")
    stream = bench.submit("a")
    bench.receive(worker)
    job = worker.given[-1].job
    for number in range(60):
        bench.say(worker, AudioChunk(job, number), pcm(SECOND))
    await clock.forward(300)
    for _ in range(20):
        await stream.read()
    await clock.forward(1)
    bench.say(worker, AudioChunk(job, 60), pcm(SECOND))
    assert counted(bench, "tts_underruns_total") == 0
    bench.finish(worker, chunks=61, samples=61 * SECOND)
    assert counted(bench, "tts_job_realtime_factor_sum") == pytest.approx(1 / 61)


async def test_what_a_job_came_to_is_counted(clock: Clock) -> None:
    bench = Bench(LONG)
    [worker] = bench.attach("w")
    await play(bench, worker, clock, (0.5, 2), (0.5, 2))
    bench.finish(worker, chunks=2, samples=4 * SECOND)
    assert counted(bench, "tts_jobs_total", outcome="done") == 1
    assert counted(bench, "tts_characters_total") == len("text of a")
    assert counted(bench, "tts_job_realtime_factor_sum") == pytest.approx(0.25)
    assert bench.dispatcher.samples == 4 * SECOND


async def test_a_job_without_audio_has_no_real_time_factor(clock: Clock) -> None:
    bench = Bench()
    [worker] = bench.attach("w")
    bench.submit("a")
    bench.finish(worker)
    assert counted(bench, "tts_jobs_total", outcome="done") == 1
    assert counted(bench, "tts_job_realtime_factor_count") == 0


async def test_each_wait_is_counted_once_however_it_ends(clock: Clock) -> None:
    bench = Bench()
    [first, second] = bench.attach("1", "2")
    for name in "abcde":
        stream = bench.submit(name)  # two run, three wait
    await clock.forward(10)
    stream.close()  # 10 s
    bench.dispatcher.detach(first, WorkerLost("gone"))  # a is tried again, first of all
    await clock.forward(20)
    bench.finish(second)  # so is a; 0 s
    bench.finish(second)  # c runs; 30 s
    await clock.forward(31)  # too long for d; 61 s
    assert counted(bench, "tts_job_wait_seconds_count") == 5
    assert counted(bench, "tts_job_wait_seconds_sum") == pytest.approx(0 + 0 + 30 + 61 + 10)


async def test_each_end_is_counted_by_what_it_was() -> None:
    bench = Bench(Limits(10, 60, 1000, 600))
    [worker] = bench.attach("w", slots=3)
    for name in "abc":
        bench.submit(name)
    left = bench.submit("d")
    waits = bench.submit("e")
    first, second, third = (job.job for job in worker.given)
    bench.say(worker, JobReceived(third))
    bench.say(worker, JobFailed(first, "engine_error", "it failed"))
    left.close()
    left.close()
    bench.say(worker, JobDone(second, 0, 0))
    bench.receive(worker)
    bench.dispatcher.detach(worker, WorkerStalled("it hangs"))
    bench.dispatcher.accept(False)
    assert waits.ended
    ends = {
        sample.labels["outcome"]: sample.value
        for family in bench.metrics.registry.collect()
        if family.name == "tts_jobs"
        for sample in family.samples
        if sample.value
    }
    assert ends == {"engine_error": 1, "cancelled": 1, "done": 1, "worker_stalled": 2}


# --- what the log tells ---------------------------------------------------------------------------


async def test_the_log_tells_of_a_job_once_and_nothing_of_what_it_says(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench = Bench()
    stream = bench.submit("request")
    await clock.forward(2)
    [worker] = bench.attach("gpu0.0")
    await clock.forward(0.25)
    bench.say(worker, AudioChunk(worker.given[0].job, 0), pcm(12_000))
    await clock.forward(1)
    bench.say(worker, AudioChunk(worker.given[0].job, 1), pcm(24_000))
    bench.finish(worker, 2, 36_000)
    stream.close()
    [line] = caplog.messages
    assert line == (
        "job request#1 done: characters=15 worker=gpu0.0 "
        "wait_s=2.000 first_audio_s=2.250 audio_s=1.500 total_s=3.250"
    )


async def test_the_log_tells_how_a_job_was_tried_again_and_failed(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench = Bench()
    one, other = bench.attach("gpu0.0", "gpu1.0")
    bench.submit("request")
    bench.dispatcher.detach(one, WorkerLost("it died"))
    await clock.forward(2)
    bench.say(other, JobFailed(other.given[0].job, "engine_error", "it failed"))
    assert caplog.messages == [
        "job request#1 retried: worker=gpu0.0 died before the answer",
        "job request#1 failed (engine_error: it failed): characters=15 worker=gpu1.0 "
        "wait_s=0.000 audio_s=0.000 total_s=2.000",
    ]


async def test_the_log_tells_who_has_left(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench = Bench()
    bench.attach("gpu0.0")
    for stream in (bench.submit("a"), bench.submit("b")):
        await clock.forward(1)
        stream.close()
    assert caplog.messages == [
        "job a#1 cancelled: characters=9 worker=gpu0.0 wait_s=0.000 audio_s=0.000 total_s=1.000",
        "job b#2 cancelled: characters=9 wait_s=2.000 audio_s=0.000 total_s=2.000",
    ]


async def test_a_reader_that_fails_fails_its_job(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench = Bench()
    bench.attach("gpu0.0")
    for stream in (bench.submit("a"), bench.submit("b")):
        stream.close(EncoderFailed("it failed"))
    assert bench.live() == []
    assert [line.partition(":")[0] for line in caplog.messages] == [
        "job a#1 failed (encoder_error",
        "job b#2 failed (encoder_error",
    ]
    assert counted(bench, "tts_jobs_total", outcome="encoder_error") == 2
    assert counted(bench, "tts_jobs_total", outcome="cancelled") == 0


async def test_a_reader_that_fails_after_the_end_changes_nothing() -> None:
    bench = Bench()
    [worker] = bench.attach("w")
    stream = bench.submit("a")
    bench.finish(worker)
    stream.close(EncoderFailed("it failed"))
    assert counted(bench, "tts_jobs_total", outcome="done") == 1
    assert counted(bench, "tts_jobs_total", outcome="encoder_error") == 0


# --- any order of events --------------------------------------------------------------------------

PICK = st.integers(0, 99)


@dataclass
class Progress:
    """What a played worker has sent of one of its jobs."""

    received: bool = False
    chunks: int = 0
    samples: int = 0


class EndsInTheLog(logging.Handler):
    """How often the log says of each job that it is over."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        job, verb = re.match(r"job (\S+) (\w+)", record.getMessage()).groups()  # type: ignore
        if verb in ("done", "failed", "cancelled"):
            self.count[name_of(job)] += 1


class AnyOrder(RuleBasedStateMachine):
    """Clients, workers and time do what they like; `on` is what the workers know of their jobs."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock(self.patch, self.loop)
        self.bench = Bench(Limits(queued=3, queue_timeout_s=60, ahead_samples=8, client_stall_s=50))
        self.accepting = True
        self.streams: dict[str, JobStream] = {}
        self.left: set[str] = set()
        self.outcomes: dict[str, str] = {}
        self.workers: list[PlayedWorker] = []
        self.on: dict[PlayedWorker, dict[str, Progress]] = {}
        self.all_given: list[tuple[PlayedWorker, Synthesize]] = []
        self.deaths_of: Counter[str] = Counter()
        self.ends = EndsInTheLog()
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
        """Whatever happened, each stream has exactly one end, and nothing is left."""
        while self.workers:
            self.lose(0, WorkerLost)
        self.accept(False)
        for name in self.streams:
            while name not in self.outcomes:
                assert self.streams[name].ended
                self.read(name)
        self.consistent()
        for name in self.streams:
            self.act(self.streams[name].close)
        self.loop.run_until_complete(self.bench.dispatcher.idle())
        assert self.bench.dispatcher.waiting == self.bench.dispatcher.running == 0
        assert self.ends.count == dict.fromkeys(self.streams, 1)

    def act(self, deed: Callable[..., T], *args: Any) -> T:
        """Do it on the event loop, and note what workers were given by it."""

        async def step() -> T:
            return deed(*args)

        result = self.loop.run_until_complete(step())
        self.note_given()
        return result

    def note_given(self) -> None:
        for worker in self.workers:
            known = sum(giver is worker for giver, _ in self.all_given)
            for job in worker.given[known:]:
                self.all_given.append((worker, job))
                self.on[worker][job.job] = Progress()
                stream = self.streams.get(name_of(job.job))
                assert not (stream and stream.committed)

    # clients

    @rule()
    def submit(self) -> None:
        name = str(len(self.streams))
        full = self.bench.dispatcher.waiting >= 3
        try:
            self.streams[name] = self.act(self.bench.submit, name)
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
        worker = PlayedWorker("worker", slots)
        self.workers.append(worker)
        self.on[worker] = {}
        self.act(self.bench.dispatcher.attach, worker)

    @precondition(lambda self: self.workers)
    @rule(pick=PICK, reason=st.sampled_from([WorkerLost, WorkerStalled]))
    def lose(self, pick: int, reason: type[ServerFault]) -> None:
        worker = self.workers[pick % len(self.workers)]
        self.workers.remove(worker)
        for job, progress in self.on.pop(worker).items():
            self.deaths_of[job] += progress.received
        self.act(self.bench.dispatcher.detach, worker, reason("gone"))

    def busy(self) -> list[tuple[PlayedWorker, str]]:
        return [(worker, job) for worker in self.workers for job in self.on[worker]]

    @precondition(lambda self: self.busy())
    @rule(pick=PICK)
    def receive(self, pick: int) -> None:
        worker, job = self.busy()[pick % len(self.busy())]
        self.act(self.bench.say, worker, JobReceived(job))
        self.on[worker][job].received = True

    @precondition(lambda self: self.busy())
    @rule(pick=PICK, samples=st.integers(0, 9), gap=st.sampled_from([0, 0, 0, 1]))
    def send_audio(self, pick: int, samples: int, gap: int) -> None:
        worker, job = self.busy()[pick % len(self.busy())]
        progress = self.on[worker][job]
        self.act(self.bench.say, worker, AudioChunk(job, progress.chunks + gap), pcm(samples))
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
        self.act(self.bench.say, worker, message)
        self.act(self.bench.say, worker, message)  # a second one is no event

    # the master

    @rule(seconds=st.sampled_from([1, 30, 61]))
    def wait(self, seconds: int) -> None:
        self.loop.run_until_complete(self.clock.forward(seconds))
        self.note_given()

    @rule()
    def tick(self) -> None:
        self.act(self.bench.dispatcher.tick)
        live = self.bench.broadcasts[-1].jobs
        assert sorted(live) == sorted(job for _, job in self.busy() if self.wanted(job))

    @rule(accepting=st.sampled_from([True, True, False]))
    def accept(self, accepting: bool) -> None:
        self.accepting = accepting
        self.act(self.bench.dispatcher.accept, accepting)

    # what always holds

    def wanted(self, job: str) -> bool:
        return not self.streams[name_of(job)].ended

    @invariant()
    def consistent(self) -> None:
        dispatcher, running = self.bench.dispatcher, [job for _, job in self.busy()]
        names = {name_of(job) for job in running}
        waiting = [n for n, s in self.streams.items() if not s.ended and n not in names]
        assert dispatcher.running == len(running) == len(set(running))
        assert dispatcher.waiting == len(waiting)
        for worker in self.workers:
            assert worker.jobs.keys() == self.on[worker].keys()
            assert len(worker.jobs) <= worker.slots
            assert worker.free <= (not waiting)  # nobody waits while a slot is free

    @invariant()
    def an_end_is_an_end(self) -> None:
        for name in self.outcomes.keys() | self.left:
            assert self.streams[name].ended

    @invariant()
    def served_in_order_and_not_too_often(self) -> None:
        jobs = [int(name_of(job.job)) for _, job in self.all_given]
        firsts = list(dict.fromkeys(jobs))
        assert firsts == sorted(firsts)
        for _, job in self.busy():
            assert self.deaths_of[job] < MAX_KILLS

    @invariant()
    def workers_can_tell_what_is_wanted(self) -> None:
        if not self.bench.broadcasts:
            return
        versions = [broadcast.version for broadcast in self.bench.broadcasts]
        assert versions == sorted(versions)
        last = self.bench.broadcasts[-1]
        since = {job.job: job.live_version for _, job in self.all_given}
        for _, job in self.busy():
            if self.wanted(job):
                assert job in last.jobs or since[job] > last.version
            else:
                assert job not in last.jobs
                assert since[job] <= last.version


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
