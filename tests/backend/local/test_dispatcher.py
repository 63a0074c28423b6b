"""Queue, dispatch, limits, credit, and how jobs end while their worker lives."""

import asyncio
import gc
import weakref

import pytest

import app.backend.local.dispatcher as dispatcher_module
from app.core.errors import (
    ClientStalled,
    Draining,
    EncoderFailed,
    EngineFailed,
    PoisonRequest,
    QueueFull,
    QueueTimeout,
    WorkerLost,
)
from app.ipc.messages import (
    JobCancelled,
    JobDone,
    JobFailed,
    PreparingVoice,
    VoicePrepared,
)
from tests.backend.local.dispatcher_env import (
    DispatcherEnv,
    FakeClock,
    FakeWorker,
    dispatched_to,
    failed_with,
    limits,
    pcm,
)

# --- order ----------------------------------------------------------------------------------------


async def test_least_recently_used_worker_is_next(env: DispatcherEnv) -> None:
    first, second, third = env.attach("1", "2", "3")
    for name in "abc":
        env.submit(name)
    for worker in (third, first, second):
        env.finish(worker)
    for name in "def":
        env.submit(name)
    assert dispatched_to(first, second, third) == [["a", "d"], ["b", "e"], ["c", "f"]]


async def test_spreads_jobs_before_they_share_a_worker(env: DispatcherEnv) -> None:
    first, second = env.attach("1", "2", slots=2)
    for name in "abcd":
        env.submit(name)
    assert dispatched_to(first, second) == [["a", "c"], ["b", "d"]]


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("queued", "blocked"), [(0, False), (0, True), (3, True)])
async def test_blocked_worker_does_not_lift_the_limit(queued: int, blocked: bool) -> None:
    env = DispatcherEnv(limits(queued=queued))
    env.dispatcher.attach(FakeWorker("w", blocked=blocked))
    for _ in range(max(queued, 1)):
        env.submit("a")
    with pytest.raises(QueueFull):
        env.submit("b")


async def test_blocked_worker_is_retried_at_a_constant_rate(
    env: DispatcherEnv, clock: FakeClock
) -> None:
    worker = FakeWorker("w", blocked=True)
    env.dispatcher.attach(worker)
    for name in "abc":
        env.submit(name)
    worker.refused = 0
    for _ in range(10):
        await clock.forward(dispatcher_module.RESEND_S)
    assert worker.refused == 10


@pytest.mark.parametrize("pace_s", [3, 7, 15])
async def test_full_queue_says_when_a_place_is_free(
    env: DispatcherEnv, clock: FakeClock, pace_s: int
) -> None:
    [worker] = env.attach("w")
    for name in "abcd":
        env.submit(name)
    for name in "efg":
        await clock.forward(pace_s)
        env.finish(worker)
        env.submit(name)
    with pytest.raises(QueueFull) as refused:
        env.submit("h")
    assert refused.value.retry_after_s == pace_s


async def test_job_that_waited_too_long_says_when_the_next_one_starts(
    env: DispatcherEnv, clock: FakeClock
) -> None:
    [worker] = env.attach("w")
    streams = [env.submit(name) for name in "abcd"]
    for _ in range(2):
        await clock.forward(25)
        env.finish(worker)
    await clock.forward(11)
    assert isinstance(streams[3].error, QueueTimeout)
    assert streams[3].error.retry_after_s == 31  # 61 s, in which two jobs started


@pytest.mark.parametrize("blocked", [False, True])
async def test_job_that_waits_too_long_fails_and_never_runs(
    env: DispatcherEnv, clock: FakeClock, blocked: bool
) -> None:
    if blocked:
        env.dispatcher.attach(FakeWorker("blocked", blocked=True))
    stream = env.submit("a")
    for _ in range(59):
        await clock.forward(1)
        assert not stream.ended
    for _ in range(2):
        await clock.forward(1)
    assert await failed_with(stream, QueueTimeout)
    [worker] = env.attach("w")
    assert worker.inbox == []


async def test_suspension_of_the_service_does_not_count_as_waiting(
    env: DispatcherEnv, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = env.submit("a")
    await clock.forward(30)
    monkeypatch.setattr(dispatcher_module, "running_time", lambda: clock.now - 1000)
    await clock.forward(1000)
    await clock.forward(29)
    assert not stream.ended
    await clock.forward(2)
    assert await failed_with(stream, QueueTimeout)


# --- credit ---------------------------------------------------------------------------------------


async def test_credit_is_sent_in_quarter_windows(env: DispatcherEnv) -> None:
    [worker] = env.attach("w")
    stream = env.submit("a")
    assert worker.credits == [1000]
    for seq in range(10):
        env.audio(worker, seq, pcm(100))
    granted = []
    for _ in range(10):
        await stream.read()
        granted.append(list(worker.credits))
    assert worker.credits == [1000, 1300, 1600, 1900]
    assert [len(credits) for credits in granted] == [1, 1, 2, 2, 2, 3, 3, 3, 4, 4]


@pytest.mark.parametrize("window", [1, 2, 3, 7, 1000])
async def test_client_that_reads_everything_never_exhausts_the_credit(window: int) -> None:
    env = DispatcherEnv(limits(ahead_samples=window))
    [worker] = env.attach("w")
    stream = env.submit("a")
    for seq in range(50):
        assert max(worker.credits) > seq
        env.audio(worker, seq, pcm(1))
        await stream.read()


async def test_credit_that_could_not_be_sent_is_sent_soon(env: DispatcherEnv) -> None:
    [worker] = env.attach("w")
    stream = env.submit("a")
    env.audio(worker, 0, pcm(1000))
    worker.blocked = True
    await stream.read()
    worker.blocked = False
    for _ in range(2):
        env.dispatcher.tick()
        assert worker.credits == [1000, 2000]


# --- how a job ends -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seqs", "chunks", "samples"),
    [
        *(([1], 0, 0), ([0, 0], 0, 0), ([0, 2], 0, 0)),  # gaps in the audio
        *(([0], 0, 0), ([0], 2, 5), ([0], 1, 6), ([0], 1, 4)),  # totals that do not match
    ],
)
async def test_lost_audio_fails_the_job(
    env: DispatcherEnv, seqs: list[int], chunks: int, samples: int
) -> None:
    [worker] = env.attach("w")
    stream = env.submit("a")
    for seq in seqs:
        env.audio(worker, seq, pcm(5))
    assert stream.ended == (seqs != [0])
    env.finish(worker, chunks, samples)
    assert await failed_with(stream, WorkerLost)


async def test_failure_keeps_its_code_and_parameter(env: DispatcherEnv) -> None:
    first, second = env.attach("1", "2")
    plain, named = env.submit("a"), env.submit("b")
    env.send(first, JobFailed(first.job, "engine_error", "it failed"))
    env.send(second, JobFailed(second.job, "empty_text", "nothing to say", "text"))
    assert await failed_with(plain, EngineFailed)
    assert named.error
    assert (named.error.code, named.error.param) == ("empty_text", "text")


async def test_slot_of_a_closed_stream_stays_busy_until_the_work_has_stopped(
    env: DispatcherEnv,
) -> None:
    [worker] = env.attach("w")
    env.submit("a").close()
    env.submit("b")
    assert env.active() == []
    assert dispatched_to(worker) == [["a"]]
    env.send(worker, JobCancelled(worker.job))
    assert dispatched_to(worker) == [["a", "b"]]


@pytest.mark.parametrize("complete", [False, True])
async def test_closed_stream_is_freed_without_the_garbage_collector(
    env: DispatcherEnv, complete: bool
) -> None:
    [worker] = env.attach("w")
    gc.disable()
    try:
        stream = env.submit("a")
        env.audio(worker, 0, pcm(5))
        if complete:
            env.finish(worker, 1, 5)
        stream.close()
        if not complete:
            env.send(worker, JobCancelled(worker.job))
        left = weakref.ref(stream)
        del stream
        assert left() is None
    finally:
        gc.enable()


async def test_client_that_reads_nothing_is_given_up_after_a_while(
    env: DispatcherEnv, clock: FakeClock
) -> None:
    """Also if its job is done, of which only the end may be unread."""
    reads_nothing, done, ending, _ = env.attach("1", "2", "3", "4")
    stalled, unread, end_unread, waiting = (env.submit(name) for name in "abcd")
    for worker in (reads_nothing, done):
        env.audio(worker, 0, pcm(5))
    for worker, chunks in ((done, 1), (ending, 0)):
        env.finish(worker, chunks, 5 * chunks)
    failures: list[object] = []
    unread.on_failed = lambda: failures.append(unread.error)
    await clock.forward(599)
    env.dispatcher.tick()
    assert not stalled.error
    assert not unread.error
    await clock.forward(2)
    for _ in range(2):
        env.dispatcher.tick()
    for stream in (stalled, unread, end_unread):
        assert await failed_with(stream, ClientStalled)
    assert failures == [unread.error]
    assert not waiting.ended
    assert env.active() == ["d"]
    assert env.outcomes() == {"client_stalled": 1, "done": 2}


async def test_client_that_has_read_everything_is_not_given_up(
    env: DispatcherEnv, clock: FakeClock
) -> None:
    [worker] = env.attach("w")
    stream = env.submit("a")
    env.audio(worker, 0, pcm(5))
    env.finish(worker, 1, 5)
    assert [await stream.read(), await stream.read()] == [pcm(5), None]
    await clock.forward(601)
    env.dispatcher.tick()
    assert not stream.error


@pytest.mark.fault(89)
async def test_much_unread_audio_refuses_further_jobs(
    env: DispatcherEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher_module, "MAX_UNREAD_BYTES", 9)
    [worker] = env.attach("w")
    stream = env.submit("a")
    env.audio(worker, 0, pcm(5))
    env.dispatcher.tick()
    env.submit("running audio does not count").close()
    env.finish(worker, 1, 5)
    env.dispatcher.tick()
    with pytest.raises(QueueFull, match="do not read it"):
        env.submit("b")
    stream.close()
    env.dispatcher.tick()
    env.submit("c")


async def test_ignores_messages_about_jobs_of_other_workers(env: DispatcherEnv) -> None:
    one, other = env.attach("1", "2")
    stream = env.submit("a")
    job = one.job
    env.dispatcher.job_started(other, job)
    for message in (JobDone(job, 0, 0), JobFailed(job, "engine_error", "no"), JobCancelled(job)):
        env.send(other, message)
    assert not stream.ended
    assert env.dispatcher.running == 1


async def test_complete_job_stays_complete(env: DispatcherEnv) -> None:
    [worker] = env.attach("w", slots=2)
    first, second = (env.submit("the same id") for _ in range(2))
    for job in worker.jobs_sent:
        env.send(worker, JobDone(job.job, 0, 0))
    first.close(EncoderFailed("it failed"))
    assert await second.read() is None
    env.dispatcher.abort()
    assert env.metric("tts_jobs_total", outcome="done") == 2
    assert env.metric("tts_jobs_total", outcome="encoder_error") == 0


async def test_refuses_a_voice_that_crashed_four_workers(env: DispatcherEnv) -> None:
    for number in range(4):
        env.voices.handle(f"dead{number}", PreparingVoice("bad"))
        env.voices.worker_exited(f"dead{number}", None)
    env.voices.handle("late", PreparingVoice("bad"))
    [worker] = env.attach("w")
    refused, other = env.submit("a", voice="bad"), env.submit("b", voice="good")
    assert await failed_with(refused, PoisonRequest)
    assert dispatched_to(worker) == [["b"]]
    assert not other.ended
    env.finish(worker)
    env.voices.handle("late", VoicePrepared("bad"))
    env.submit("c", voice="bad")
    assert dispatched_to(worker) == [["b", "c"]]


async def test_abort_ends_every_stream_and_the_last_closed_one_makes_idle(
    env: DispatcherEnv,
) -> None:
    done, _ = env.attach("1", "2")
    await env.dispatcher.wait_idle()
    streams = [env.submit(name) for name in ("is unread", "runs", "waits")]
    env.finish(done)
    idle = asyncio.create_task(env.dispatcher.wait_idle())
    env.dispatcher.abort()
    assert env.active() == []
    for stream in streams:
        assert await failed_with(stream, Draining)
        await asyncio.sleep(0)
        assert not idle.done()
        stream.close()
    await idle
