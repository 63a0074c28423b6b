"""Jobs far ahead of their listeners are preempted while others wait, and go on in time."""

import logging
from typing import Any

import pytest

import app.backend.local.dispatcher as dispatcher_module
from app.backend.base import JobRequest
from app.backend.job_stream import JobStream
from app.core.errors import ClientStalled, Draining, NotReady, QueueTimeout, WorkerLost
from app.core.resume_point import BEGINNING, ResumePoint
from app.ipc.messages import AudioChunk, JobDone, JobPreempted, Preempt
from tests.backend.local.dispatcher_env import (
    DispatcherEnv,
    FakeClock,
    FakeWorker,
    dispatched_to,
    failed_with,
    limits,
    name_of,
    pcm,
)
from tests.ipc.test_messages import PARAMS

SECOND = 24_000
POINT = ResumePoint(3, b"joiner", b"watermark")


@pytest.fixture
async def env(clock: FakeClock) -> DispatcherEnv:
    """A client with 10 s of audio can wait for more."""
    return DispatcherEnv(limits(ahead_samples=60 * SECOND))


def yields(worker: FakeWorker) -> list[str]:
    return [name_of(message.job) for message in worker.inbox if isinstance(message, Preempt)]


async def listen(
    env: DispatcherEnv, worker: FakeWorker, name: str, audio_s: int = 20, *, commit: bool = True
) -> JobStream:
    """A job on the worker, of whose audio in chunks of a second the client has read the first."""
    stream = env.submit(name)
    env.start(worker)
    for seq in range(audio_s):
        env.audio(worker, seq, pcm(SECOND))
    await stream.read()
    if commit:
        stream.commit()
    return stream


def preempt(env: DispatcherEnv, worker: FakeWorker, audio_s: int = 20, **totals: int) -> None:
    """The worker gives its newest job's slot up."""
    values = {"chunks": audio_s, "samples": audio_s * SECOND} | totals
    env.send(worker, JobPreempted(worker.job, resume_point=POINT, **values))


async def preempted(env: DispatcherEnv, worker: FakeWorker, name: str = "a") -> JobStream:
    """A job 20 s ahead, preempted for another."""
    stream = await listen(env, worker, name)
    env.submit(f"after {name}")
    preempt(env, worker)
    return stream


# --- who gives way --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("audio_s", "commit", "asked"),
    [
        (20, True, ["a"]),
        (5, True, []),  # its listener needs the next chunk soon
        (20, False, []),  # nobody listens before the whole file is there
    ],
)
async def test_job_far_ahead_of_its_listener_gives_way_to_one_that_waits(
    env: DispatcherEnv, audio_s: int, commit: bool, asked: list[str]
) -> None:
    [worker] = env.attach("w")
    await listen(env, worker, "a", audio_s, commit=commit)
    assert yields(worker) == []  # nobody waits
    env.submit("b")
    env.dispatcher.tick()
    assert yields(worker) == asked


async def test_as_many_give_way_as_wait_and_those_furthest_ahead_first(env: DispatcherEnv) -> None:
    [worker] = env.attach("w", slots=3)
    for name, audio_s in (("a", 15), ("b", 40), ("c", 30)):
        await listen(env, worker, name, audio_s)
    env.submit("d")
    env.submit("e")
    assert yields(worker) == ["b", "c"]


async def test_job_that_gets_far_ahead_while_another_waits_gives_way_at_once(
    env: DispatcherEnv,
) -> None:
    [worker] = env.attach("w")
    stream = env.submit("a")
    env.submit("b")
    for seq in range(12):
        env.audio(worker, seq, pcm(SECOND))
        await stream.read()
        stream.commit()
        assert yields(worker) == ["a"] * (seq >= 9)


@pytest.mark.parametrize(("speed", "asked"), [(0.5, ["a"]), (1, ["a"]), (2, [])])
async def test_fast_speech_is_over_sooner(
    env: DispatcherEnv, speed: float, asked: list[str]
) -> None:
    [worker] = env.attach("w")
    stream = env.dispatcher.submit(JobRequest("a", "text", None, PARAMS, speed))
    env.audio(worker, 0, pcm(15 * SECOND))
    await stream.read()
    stream.commit()
    env.submit("b")
    assert yields(worker) == asked


async def test_job_without_credit_gives_way_however_fast_its_client_plays(
    env: DispatcherEnv, clock: FakeClock
) -> None:
    [worker] = env.attach("w")
    await listen(env, worker, "a", 60)
    await clock.forward(100)
    env.submit("b")
    assert yields(worker) == ["a"]


async def test_yield_that_could_not_be_sent_is_sent_soon(env: DispatcherEnv) -> None:
    [worker] = env.attach("w")
    await listen(env, worker, "a")
    worker.blocked = True
    env.submit("b")
    worker.blocked = False
    env.dispatcher.tick()
    env.dispatcher.tick()
    assert yields(worker) == ["a"]


# --- who goes on ----------------------------------------------------------------------------------


async def test_job_goes_on_where_it_was_when_nobody_waits_on_any_worker(
    env: DispatcherEnv,
) -> None:
    [first] = env.attach("1")
    stream = await preempted(env, first)
    assert dispatched_to(first) == [["a", "after a"]]
    [other] = env.attach("2")
    [job] = other.jobs_sent
    assert (name_of(job.job), job.text) == ("a", "text of a")
    assert (job.resume_point, job.chunks, job.samples) == (POINT, 20, 20 * SECOND)
    assert job.credit == 61 * SECOND
    env.send(other, AudioChunk(job.job, 20), pcm(SECOND))
    env.send(other, JobDone(job.job, 21, 21 * SECOND))
    assert [len(await stream.read() or b"") for _ in range(20)] == [2 * SECOND] * 20
    assert await stream.read() is None


async def test_jobs_whose_listeners_need_more_go_before_those_that_wait(
    env: DispatcherEnv, clock: FakeClock
) -> None:
    [worker] = env.attach("w")
    streams = [await preempted(env, worker)]
    env.submit("c")
    env.finish(worker)  # "after a"
    assert dispatched_to(worker) == [["a", "after a", "c"]]
    env.submit("d")
    for _ in range(19):
        await streams[0].read()
    await clock.forward(11)  # 9 s are left
    env.dispatcher.tick()
    env.finish(worker)  # "c"
    assert dispatched_to(worker) == [["a", "after a", "c", "a"]]


async def test_running_job_gives_way_to_one_whose_listener_needs_more(
    env: DispatcherEnv, clock: FakeClock
) -> None:
    [worker] = env.attach("w")
    stream = await preempted(env, worker)
    for _ in range(19):
        await stream.read()
    await clock.forward(8)
    for seq in range(20):
        env.audio(worker, seq, pcm(SECOND))
    [running] = worker.jobs.values()
    running.stream.commit()
    env.dispatcher.tick()
    assert yields(worker) == ["a"]
    await clock.forward(3)
    env.dispatcher.tick()
    assert yields(worker) == ["a", "after a"]


async def test_job_whose_client_has_read_nothing_waits_for_credit(env: DispatcherEnv) -> None:
    [worker] = env.attach("w")
    stream = await listen(env, worker, "a", 61)
    env.submit("b")
    preempt(env, worker, 61)
    env.finish(worker)
    assert dispatched_to(worker) == [["a", "b"]]
    for _ in range(15):
        await stream.read()
    env.dispatcher.tick()
    assert dispatched_to(worker) == [["a", "b", "a"]]
    assert worker.jobs_sent[-1].credit == 76 * SECOND


# --- what else may happen -------------------------------------------------------------------------


async def test_preempted_job_neither_waits_nor_runs(env: DispatcherEnv, clock: FakeClock) -> None:
    [worker] = env.attach("w")
    stream = await preempted(env, worker)
    dispatcher = env.dispatcher
    assert (dispatcher.waiting, dispatcher.running, dispatcher.preempted) == (0, 1, 1)
    for name in "bcd":  # as many as may wait
        waiting = env.submit(name)
    await clock.forward(61)
    assert await failed_with(waiting, QueueTimeout)
    assert not stream.ended
    assert env.active() == ["after a"]


async def test_job_whose_client_leaves_never_goes_on(env: DispatcherEnv) -> None:
    [worker] = env.attach("w")
    stream = await preempted(env, worker)
    stream.close()
    assert env.dispatcher.preempted == 0
    env.finish(worker)
    assert dispatched_to(worker) == [["a", "after a"]]
    assert env.outcomes() == {"cancelled": 1, "done": 1}


async def test_client_that_leaves_meanwhile_frees_the_slot(env: DispatcherEnv) -> None:
    [worker] = env.attach("w")
    stream = await listen(env, worker, "a")
    env.submit("b")
    stream.close()
    preempt(env, worker)
    assert dispatched_to(worker) == [["a", "b"]]
    assert env.dispatcher.preempted == 0


async def test_client_that_stalls_is_given_up(env: DispatcherEnv, clock: FakeClock) -> None:
    [worker] = env.attach("w")
    stream = await preempted(env, worker)
    await clock.forward(601)
    env.dispatcher.tick()
    assert await failed_with(stream, ClientStalled)
    assert env.dispatcher.preempted == 0


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (lambda env: env.dispatcher.set_accepting(False), NotReady),
        (lambda env: env.dispatcher.abort(), Draining),
    ],
)
async def test_preempted_job_ends_with_the_service(
    env: DispatcherEnv, end: Any, error: type[Any]
) -> None:
    [worker] = env.attach("w")
    stream = await preempted(env, worker)
    end(env)
    assert await failed_with(stream, error)
    assert env.dispatcher.preempted == 0


async def test_drain_waits_for_preempted_jobs(env: DispatcherEnv) -> None:
    [worker] = env.attach("w")
    stream = await preempted(env, worker)
    env.dispatcher.drain()
    env.finish(worker)
    assert dispatched_to(worker) == [["a", "after a", "a"]]
    env.send(worker, JobDone(worker.job, 20, 20 * SECOND))
    while await stream.read():
        pass
    assert env.outcomes() == {"done": 2}


async def test_death_of_a_worker_does_not_touch_preempted_jobs(env: DispatcherEnv) -> None:
    [worker] = env.attach("w")
    stream = await preempted(env, worker)
    env.finish(worker)
    assert worker.job == worker.jobs_sent[0].job  # sent, not yet begun
    env.lose(worker)
    assert not stream.ended
    [next_] = env.attach("w")
    assert (next_.jobs_sent[0].resume_point, next_.jobs_sent[0].chunks) == (POINT, 20)
    env.start(next_)
    env.lose(next_)
    assert await failed_with(stream, WorkerLost)


async def test_lost_audio_fails_the_job(env: DispatcherEnv) -> None:
    [worker] = env.attach("w")
    stream = await listen(env, worker, "a")
    preempt(env, worker, samples=19 * SECOND)
    assert await failed_with(stream, WorkerLost)
    assert env.dispatcher.preempted == 0


async def test_much_unread_audio_stops_all_but_those_whose_listeners_need_more(
    env: DispatcherEnv, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    [worker] = env.attach("w")
    stream = await preempted(env, worker)
    monkeypatch.setattr(dispatcher_module, "MAX_UNREAD_BYTES", 20 * SECOND)
    env.dispatcher.tick()
    env.finish(worker)
    assert dispatched_to(worker) == [["a", "after a"]]
    for _ in range(10):
        await stream.read()
    await clock.forward(15)
    env.dispatcher.tick()
    assert dispatched_to(worker) == [["a", "after a", "a"]]


async def test_much_unread_audio_keeps_no_slot_from_those_whose_listeners_need_more(
    env: DispatcherEnv, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    [worker] = env.attach("w")
    stream = await preempted(env, worker)
    for _ in range(12):
        await stream.read()
    await clock.forward(15)
    [running] = worker.jobs.values()
    for seq in range(20):
        env.audio(worker, seq, pcm(SECOND))
    running.stream.commit()
    monkeypatch.setattr(dispatcher_module, "MAX_UNREAD_BYTES", 0)
    env.dispatcher.tick()
    assert yields(worker) == ["a", "after a"]


async def test_job_for_a_complete_file_gives_way_to_a_client_that_runs_dry_and_goes_on_next(
    env: DispatcherEnv, clock: FakeClock
) -> None:
    [worker] = env.attach("w")
    stream = await preempted(env, worker)
    [file] = [job.stream for job in worker.jobs.values()]
    env.start(worker)
    env.audio(worker, 0, pcm(SECOND))
    assert yields(worker) == ["a"]
    for _ in range(12):
        await stream.read()
    await clock.forward(15)
    env.dispatcher.tick()
    assert yields(worker) == ["a", "after a"]
    env.submit("new")
    preempt(env, worker, 1)
    assert dispatched_to(worker) == [["a", "after a", "a"]]
    env.start(worker)
    env.audio(worker, 20, pcm(20 * SECOND))
    preempt(env, worker, chunks=21, samples=40 * SECOND)
    assert dispatched_to(worker) == [["a", "after a", "a", "after a"]]
    env.start(worker)
    env.lose(worker)  # a file may be begun again
    [next_] = env.attach("w")
    assert not file.ended
    assert (next_.jobs_sent[0].resume_point, next_.jobs_sent[0].chunks) == (BEGINNING, 0)


async def test_time_aside_counts_neither_as_work_nor_as_a_gap(
    env: DispatcherEnv, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clock.now = 1024.0
    [worker] = env.attach("w")
    stream = await listen(env, worker, "a")
    await clock.forward(2)
    env.submit("b")
    preempt(env, worker)
    await clock.forward(10)
    env.finish(worker)
    await clock.forward(1)
    env.audio(worker, 20, pcm(SECOND))
    env.finish(worker, 21, 21 * SECOND)
    while await stream.read():
        pass
    assert env.metric("tts_underruns_total") == 0
    assert env.metric("tts_job_wait_seconds_count") == 2
    assert env.metric("tts_job_first_audio_seconds_count") == 1
    assert env.metric("tts_job_realtime_factor_sum") == pytest.approx(3 / 21)
    assert caplog.messages[-1] == (
        "job a#1 done: characters=9 worker=w wait_s=0.000 first_audio_s=0.000 audio_s=21.000 "
        "total_s=13.000"
    )


async def test_late_resumption_is_a_gap(env: DispatcherEnv, clock: FakeClock) -> None:
    [worker] = env.attach("w")
    stream = await preempted(env, worker)
    for _ in range(19):
        await stream.read()
    await clock.forward(25)
    env.finish(worker)
    env.audio(worker, 20, pcm(SECOND))
    assert env.metric("tts_underrun_seconds_total") == pytest.approx(5)
