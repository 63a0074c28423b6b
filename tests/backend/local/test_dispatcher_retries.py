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
