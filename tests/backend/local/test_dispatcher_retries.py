"""What becomes of a job whose worker dies."""

import pytest

from app.backend.job_stream import Restarted
from app.core.errors import PoisonRequest, QueueTimeout, WorkerLost, WorkerStalled
from app.ipc.messages import WorkerFailed
from tests.backend.local.dispatcher_env import (
    DispatcherEnv,
    FakeClock,
    dispatched_to,
    failed_with,
    pcm,
)


async def test_job_that_sent_nothing_to_the_client_is_retried_first(env: DispatcherEnv) -> None:
    one, other = env.attach("1", "2")
    stream = env.submit("a")
    for name in "bcd":
        env.submit(name)
    env.audio(one, 0, b"\1\1" * 5)
    await stream.read()  # read, but not committed
    env.lose(one)
    with pytest.raises(Restarted):
        await stream.read()
    env.finish(other)
    assert dispatched_to(other) == [["b", "a"]]
    env.audio(other, 0, b"\2\2" * 7)
    env.finish(other, 1, 7)
    assert [await stream.read(), await stream.read()] == [b"\2\2" * 7, None]
    assert env.metric("tts_job_first_audio_seconds_count") == 1


async def test_committed_job_is_not_retried(env: DispatcherEnv) -> None:
    one, other = env.attach("1", "2")
    stream = env.submit("a")
    env.audio(one, 0, pcm(5))
    await stream.read()
    stream.commit()
    env.lose(one)
    assert await failed_with(stream, WorkerLost)
    assert other.inbox == []


@pytest.mark.parametrize("reported", [False, True])
async def test_job_that_crashes_two_workers_is_poison(env: DispatcherEnv, reported: bool) -> None:
    workers = env.attach("1", "2", "3")
    stream = env.submit("a")
    for worker in workers[:2]:
        assert not stream.ended
        env.start(worker)
        env.lose(worker, exit_report=WorkerFailed("broken", worker.job) if reported else None)
    assert await failed_with(stream, PoisonRequest)
    assert dispatched_to(*workers) == [["a"], ["a"], []]


async def test_jobs_that_shared_a_dead_worker_run_alone_until_they_end(env: DispatcherEnv) -> None:
    """Only the crashes of a worker that ran nothing else count."""
    [first] = env.attach("1", slots=3)
    good, bad, last = (env.submit(name) for name in ("good", "bad", "last"))
    for job in list(first.jobs):
        env.dispatcher.job_started(first, job)
    env.lose(first)
    [second] = env.attach("2", slots=3)
    new = env.submit("new")
    assert dispatched_to(second) == [["good"]]
    assert second.jobs_sent[0].alone
    env.finish(second)
    env.start(second)
    env.lose(second)
    assert (first.died_of_suspect, second.died_of_suspect) == (False, True)
    [another] = env.attach("another", slots=3)
    env.start(another)
    env.lose(another)
    assert await failed_with(bad, PoisonRequest)
    [third] = env.attach("3", slots=3)
    assert dispatched_to(second, another, third) == [["good", "bad"], ["bad"], ["last"]]
    env.finish(third)
    env.submit("newer")
    assert dispatched_to(third) == [["last", "new", "newer"]]
    assert not third.jobs_sent[1].alone
    assert all(stream.ended and not stream.error for stream in (good, last))
    assert not new.ended


@pytest.mark.parametrize("expected", [False, True])
async def test_new_jobs_pass_a_suspect_that_waits_for_an_empty_worker(
    env: DispatcherEnv, expected: bool
) -> None:
    """Only if no worker is to come, the least busy one gets no further job."""
    [dead] = env.attach("dead")
    env.submit("suspect")
    env.start(dead)
    one, other = env.attach("1", "2", slots=9)
    for name in "abc":
        env.submit(name)
    env.dispatcher.set_accepting(True, worker_expected=expected)
    env.lose(dead)
    for name in "de":
        env.submit(name)
    if expected:
        assert dispatched_to(one, other) == [["a", "c", "e"], ["b", "d"]]
        [third] = env.attach("3", slots=9)
        assert dispatched_to(third) == [["suspect"]]
        return
    assert dispatched_to(one, other) == [["a", "c", "d", "e"], ["b"]]
    env.finish(other)
    assert dispatched_to(one, other) == [["a", "c", "d", "e"], ["b", "suspect"]]


async def test_one_of_several_started_jobs_is_to_blame_for_a_silent_stall(
    env: DispatcherEnv,
) -> None:
    [first] = env.attach("1", slots=2)
    good, bad = env.submit("good"), env.submit("bad")
    for job in list(first.jobs):
        env.dispatcher.job_started(first, job)
    env.lose(first, WorkerStalled)
    [second] = env.attach("2", slots=2)
    env.finish(second)
    assert good.ended
    assert not good.error
    env.start(second)
    env.lose(second, WorkerStalled)
    assert await failed_with(bad, WorkerStalled)


@pytest.mark.parametrize(
    ("report", "failed"),
    [
        (WorkerFailed("it hangs", job="b#2"), {"b"}),
        (WorkerFailed("it hangs", voice="v"), {"b", "c"}),
        (WorkerFailed("it hangs", voice="w"), set()),
    ],
)
async def test_job_or_voice_that_hangs_is_the_only_one_to_blame(
    env: DispatcherEnv, report: WorkerFailed, failed: set[str]
) -> None:
    [worker] = env.attach("1", slots=3)
    streams = {name: env.submit(name, voice="v" if name in "bc" else None) for name in "abc"}
    for job in list(worker.jobs):
        env.dispatcher.job_started(worker, job)
    env.lose(worker, WorkerStalled, report)
    assert {name for name, stream in streams.items() if stream.ended} == failed
    for name in failed:
        assert await failed_with(streams[name], WorkerStalled)
    [other] = env.attach("2", slots=3)
    assert dispatched_to(other) == [[name for name in "abc" if name not in failed]]


async def test_job_is_not_blamed_for_workers_that_died_before_they_started_it(
    env: DispatcherEnv,
) -> None:
    *dead, alive = env.attach("1", "2", "3", "4")
    stream = env.submit("a")
    env.start(dead[0])  # a suspect of this crash only
    for worker in dead:
        env.lose(worker)
    assert dispatched_to(alive) == [["a"]]
    assert not stream.ended


async def test_job_is_not_blamed_if_the_worker_reports_another_cause(env: DispatcherEnv) -> None:
    workers = env.attach("1", "2", "3")
    stream = env.submit("a")
    for worker, job in zip(workers[:2], ("another", None), strict=True):
        env.start(worker)
        env.lose(worker, exit_report=WorkerFailed("broken", job))
    assert not stream.ended
    assert dispatched_to(*workers) == [["a"], ["a"], ["a"]]


@pytest.mark.parametrize("started", [False, True])
async def test_job_of_a_stalled_worker_is_retried_unless_it_had_started(
    env: DispatcherEnv, started: bool
) -> None:
    one, other = env.attach("1", "2")
    stream = env.submit("a")
    if started:
        env.start(one)
    env.lose(one, WorkerStalled)
    assert dispatched_to(other) == ([[]] if started else [["a"]])
    assert stream.ended == started
    assert not started or await failed_with(stream, WorkerStalled)


async def test_job_whose_client_has_left_is_not_retried(env: DispatcherEnv) -> None:
    one, other = env.attach("1", "2")
    env.submit("a").close()
    env.lose(one)
    assert other.inbox == []
    assert env.dispatcher.running == 0


async def test_retried_job_waits_no_longer_than_any_other(
    env: DispatcherEnv, clock: FakeClock
) -> None:
    stream = env.submit("a")
    await clock.forward(50)
    [worker] = env.attach("w")
    await clock.forward(1000)  # running, not waiting
    env.lose(worker)
    await clock.forward(9)
    assert not stream.ended
    await clock.forward(2)
    assert await failed_with(stream, QueueTimeout)


async def test_retried_job_is_the_same_with_a_newer_version_and_new_credit(
    env: DispatcherEnv,
) -> None:
    one, other = env.attach("1", "2")
    stream = env.submit("a")
    env.audio(one, 0, pcm(900))
    await stream.read()
    assert one.credits == [1000, 1900]
    env.lose(one)
    [first], [second] = one.jobs_sent, other.jobs_sent
    assert (first.job, first.text, first.params) == (second.job, second.text, second.params)
    assert second.active_version > first.active_version
    assert other.credits == [1000]
    env.audio(other, 0, pcm(300))
    with pytest.raises(Restarted):
        await stream.read()
    await stream.read()
    assert other.credits == [1000, 1300]


async def test_suspect_runs_alone_until_it_is_past_where_the_worker_died(
    env: DispatcherEnv,
) -> None:
    [dead] = env.attach("dead")
    env.submit("suspect")
    env.start(dead)
    env.audio(dead, 0, pcm(5))
    env.lose(dead)
    [worker] = env.attach("worker", slots=2)
    env.submit("new")
    env.audio(worker, 0, pcm(5))
    assert dispatched_to(worker) == [["suspect"]]
    env.audio(worker, 1, pcm(5))
    assert dispatched_to(worker) == [["suspect", "new"]]


async def test_suspects_that_wait_for_their_turn_do_not_time_out(
    env: DispatcherEnv, clock: FakeClock
) -> None:
    [dead] = env.attach("dead", slots=2)
    first, second = env.submit("first"), env.submit("second")
    for job in list(dead.jobs):
        env.dispatcher.job_started(dead, job)
    env.lose(dead)
    [worker] = env.attach("worker", slots=2)
    await clock.forward(600)
    assert dispatched_to(worker) == [["first"]]
    env.finish(worker)
    assert dispatched_to(worker) == [["first", "second"]]
    assert not second.ended
    assert not first.error
