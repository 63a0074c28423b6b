"""Metrics and log lines of jobs, for clients that play audio as it arrives."""

import logging

import pytest

from app.backend.job_stream import JobStream
from app.core.errors import EncoderFailed, WorkerStalled
from app.ipc.messages import JobDone, JobFailed
from tests.backend.local.dispatcher_env import DispatcherEnv, FakeClock, FakeWorker, limits, pcm

SECOND = 24_000


@pytest.fixture
async def env(clock: FakeClock) -> DispatcherEnv:
    clock.now = 1024.0  # makes sums exact
    return DispatcherEnv(limits(queued=10, ahead_samples=60 * SECOND))


async def play(
    env: DispatcherEnv, worker: FakeWorker, clock: FakeClock, *chunks: tuple[float, float]
) -> JobStream:
    """Run a job with chunks of (seconds since the last one, seconds of audio), all read."""
    stream = env.submit("a")
    for seq, (after_s, audio_s) in enumerate(chunks):
        await clock.forward(after_s)
        env.audio(worker, seq, pcm(round(audio_s * SECOND)))
        await stream.read()
    return stream


@pytest.mark.parametrize(
    ("chunks", "gaps", "silence_s"),
    [
        ([(0.5, 1)], 0, 0),
        ([(0.5, 1), (0.9, 1), (1, 1)], 0, 0),
        ([(0.5, 1), (1.5, 1)], 1, 0.5),
        ([(0.5, 1), (1.5, 1), (1, 1)], 1, 0.5),  # after a gap, playout is later
        ([(0.5, 1), (1.5, 1), (1.25, 1)], 2, 0.75),
        ([(0.5, 3), (1, 0.1), (2.5, 1)], 1, 0.4),
    ],
)
async def test_underruns_are_counted(
    env: DispatcherEnv,
    clock: FakeClock,
    chunks: list[tuple[float, float]],
    gaps: int,
    silence_s: float,
) -> None:
    [worker] = env.attach("w")
    await play(env, worker, clock, *chunks)
    assert env.metric("tts_underruns_total") == gaps
    assert env.metric("tts_underrun_seconds_total") == pytest.approx(silence_s)
    assert env.metric("tts_job_first_audio_seconds_sum") == 0.5


async def test_pause_of_the_client_is_no_underrun(env: DispatcherEnv, clock: FakeClock) -> None:
    [worker] = env.attach("w")
    stream = env.submit("a")
    for seq in range(60):
        env.audio(worker, seq, pcm(SECOND))
    await clock.forward(300)
    for _ in range(20):
        await stream.read()
    await clock.forward(1)
    env.audio(worker, 60, pcm(SECOND))
    assert env.metric("tts_underruns_total") == 0
    env.finish(worker, chunks=61, samples=61 * SECOND)
    assert env.metric("tts_job_realtime_factor_sum") == pytest.approx(1 / 61)


async def test_each_wait_is_counted_once_however_it_ends(
    env: DispatcherEnv, clock: FakeClock
) -> None:
    [first, second] = env.attach("1", "2")
    for name in "abcde":
        stream = env.submit(name)  # two run, three wait
    await clock.forward(10)
    stream.close()  # 10 s
    env.lose(first)  # a is retried first
    await clock.forward(20)
    env.finish(second)  # so is a; 0 s
    env.finish(second)  # c runs; 30 s
    await clock.forward(31)  # d times out after 61 s
    assert env.metric("tts_job_wait_seconds_count") == 5
    assert env.metric("tts_job_wait_seconds_sum") == pytest.approx(0 + 0 + 30 + 61 + 10)


async def test_each_outcome_is_counted(env: DispatcherEnv) -> None:
    [worker] = env.attach("w", slots=3)
    for name in "abc":
        env.submit(name)
    left = env.submit("d")
    env.submit("e")
    first, second, _ = (job.job for job in worker.jobs_sent)
    env.send(worker, JobFailed(first, "engine_error", "it failed"))
    left.close()
    left.close()
    env.send(worker, JobDone(second, 0, 0))
    env.start(worker)
    env.lose(worker, WorkerStalled)
    waiting = env.submit("f")
    env.dispatcher.set_accepting(False)
    assert waiting.ended
    assert env.metric("tts_job_realtime_factor_count") == 0  # no audio
    assert env.outcomes() == {
        "engine_error": 1,
        "cancelled": 1,
        "done": 1,
        "worker_stalled": 1,
        "not_ready": 2,
    }


# --- log ------------------------------------------------------------------------------------------


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


async def test_finished_job_is_one_line_without_its_text(
    env: DispatcherEnv, clock: FakeClock, log: pytest.LogCaptureFixture
) -> None:
    stream = env.submit("request")
    await clock.forward(2)
    [worker] = env.attach("gpu0.0")
    await clock.forward(0.25)
    env.audio(worker, 0, pcm(12_000))
    await clock.forward(1)
    env.audio(worker, 1, pcm(24_000))
    env.finish(worker, 2, 36_000)
    stream.close()
    assert env.metric("tts_characters_total") == 15
    assert env.dispatcher.samples == 36_000
    assert log.messages == [
        "job request#1 done: characters=15 worker=gpu0.0 "
        "wait_s=2.000 first_audio_s=2.250 audio_s=1.500 total_s=3.250"
    ]


async def test_retry_and_failure_are_logged(
    env: DispatcherEnv, clock: FakeClock, log: pytest.LogCaptureFixture
) -> None:
    one, other = env.attach("gpu0.0", "gpu1.0")
    env.submit("request")
    env.lose(one)
    await clock.forward(2)
    env.send(other, JobFailed(other.job, "engine_error", "it failed"))
    assert log.messages == [
        "job request#1 requeued: worker gpu0.0 exited before any audio was sent",
        "job request#1 failed (engine_error: it failed): characters=15 worker=gpu1.0 "
        "wait_s=0.000 audio_s=0.000 total_s=2.000",
    ]


@pytest.mark.parametrize("failure", [None, EncoderFailed("it failed")])
async def test_jobs_that_their_readers_end_are_logged(
    env: DispatcherEnv,
    clock: FakeClock,
    log: pytest.LogCaptureFixture,
    failure: EncoderFailed | None,
) -> None:
    env.attach("gpu0.0")
    for stream in (env.submit("a"), env.submit("b")):
        await clock.forward(1)
        stream.close(failure)
    end = "failed (encoder_error: it failed)" if failure else "cancelled"
    assert log.messages == [
        f"job a#1 {end}: characters=9 worker=gpu0.0 wait_s=0.000 audio_s=0.000 total_s=1.000",
        f"job b#2 {end}: characters=9 wait_s=2.000 audio_s=0.000 total_s=2.000",
    ]
