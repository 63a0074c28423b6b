"""Jobs on a real pipeline with the scripted engine; `Outbox` records what they send."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.audio.decode_limits import HEADER
from app.core.audio import Samples
from app.core.engine_config import EngineConfig, QueueSizes
from app.core.errors import DeviceFailed
from app.core.resume_point import ResumePoint
from app.ipc.messages import (
    ActiveJobs,
    AudioChunk,
    Credit,
    JobCancelled,
    JobDone,
    JobFailed,
    JobPreempted,
    JobResult,
    JobStarted,
    Preempt,
    PreparingVoice,
    Report,
    Result,
    Synthesize,
    VoicePrepared,
    Voices,
    WorkerFailed,
)
from app.pipeline.pipeline import Pipeline
from app.worker.job_runner import JobRunner
from app.worker.voice_cache import VoiceCache
from tests.ipc.test_messages import PARAMS
from tests.support.engines import SAMPLES_PER_TOKEN, NumberlessDecoder, ScriptedEngine, expected_pcm
from tests.support.waiting import PATIENCE_S, until

PLAIN = msgspec.structs.replace(PARAMS, crossfade_duration_milliseconds=0)
TOKEN = SAMPLES_PER_TOKEN


class Outbox:
    """Records results with their PCM, and reports."""

    def __init__(self) -> None:
        self.sent: list[tuple[Result, bytes]] = []
        self.reports: list[Report] = []
        self._sent_more = asyncio.Event()

    async def send(self, message: Result, pcm: bytes | None = None) -> None:
        self.sent.append((message, pcm or b""))
        self._sent_more.set()

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._sent_more.clear()
                await self._sent_more.wait()

    def audio(self, job: str) -> bytes:
        return b"".join(pcm for message, pcm in self.sent if message.job == job)

    def samples(self, job: str) -> int:
        return len(self.audio(job)) // 2

    def ends(self, job: str) -> list[JobResult]:
        return [m for m, _ in self.sent if m.job == job and not isinstance(m, AudioChunk)]


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(EngineConfig("cpu", 1, ""))


@pytest.fixture
async def jobs(engine: ScriptedEngine, outbox: Outbox, tmp_path: Path) -> AsyncIterator[JobRunner]:
    pipeline = Pipeline(engine, QueueSizes(2, 3))
    voices = VoiceCache(engine, tmp_path, outbox.reports.append)
    jobs = JobRunner(engine, pipeline, voices, outbox.send, outbox.reports.append)
    yield jobs
    jobs.cancel_missing(ActiveJobs(10**9, []))
    await jobs.wait_idle()
    pipeline.close()


def request(
    job: str, text: str, *, active_version: int = 1, credit: int = 10**9, voice: str | None = None
) -> Synthesize:
    return Synthesize(job, text, voice, PLAIN, active_version, credit)


async def finished(jobs: JobRunner) -> None:
    await asyncio.wait_for(jobs.wait_idle(), PATIENCE_S)


# --- running and reporting ------------------------------------------------------------------------


async def test_job_is_reported_before_the_engine_is_called(
    jobs: JobRunner, outbox: Outbox, engine: ScriptedEngine
) -> None:
    jobs.start(request("j", "audio2 one"))
    await until(lambda: outbox.reports != [])
    assert outbox.reports == [JobStarted("j")]
    assert engine.steps == 0
    await finished(jobs)
    assert outbox.reports == [JobStarted("j")]
    assert [message for message, _ in outbox.sent] == [
        AudioChunk("j", 0),
        AudioChunk("j", 1),
        JobDone("j", 2, 3 * TOKEN),
    ]
    assert outbox.audio("j") == expected_pcm("audio2 one", PLAIN.seed)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("one raise", JobFailed("j", "engine_error", "the speech engine failed")),
        ("one mute", JobFailed("j", "empty_text", "scripted: nothing to say", "text")),
    ],
)
async def test_error_is_sent_without_details_of_the_engine(
    jobs: JobRunner, outbox: Outbox, text: str, end: JobFailed
) -> None:
    jobs.start(request("j", text))
    await finished(jobs)
    assert outbox.ends("j") == [end]


async def test_service_error_is_sent_with_its_message(
    jobs: JobRunner, outbox: Outbox, engine: ScriptedEngine
) -> None:
    engine.new_decoder = lambda voice, params, first_chunk: NumberlessDecoder(voice, params.seed)  # type: ignore[method-assign]
    jobs.start(request("j", "one"))
    await finished(jobs)
    [end] = outbox.ends("j")
    assert isinstance(end, JobFailed)
    assert "not numbers" in end.message


async def test_jobs_run_concurrently(jobs: JobRunner, outbox: Outbox) -> None:
    for number in range(5):
        jobs.start(request(str(number), "one sleep0 audio3 " * 5))
    assert len(jobs.under_way) == 5
    await finished(jobs)
    assert jobs.under_way == {}
    for number in range(5):
        assert outbox.audio(str(number)) == expected_pcm("one sleep0 audio3 " * 5, PLAIN.seed)


async def test_suspect_is_begun_after_the_voice_in_preparation(
    jobs: JobRunner, outbox: Outbox, engine: ScriptedEngine, tmp_path: Path
) -> None:
    prepared = asyncio.Event()

    async def prepare(samples: Samples, rate: int) -> int:
        await prepared.wait()
        return 1

    engine.prepare_voice = prepare  # type: ignore[method-assign]
    (tmp_path / "v").write_bytes(HEADER.pack(24_000, 100) + bytes(400))
    jobs._voices.sync(Voices(frozenset({"v"})))
    await until(lambda: outbox.reports == [PreparingVoice("v")])
    jobs.start(msgspec.structs.replace(request("j", "audio1"), alone=True))
    await asyncio.sleep(0.01)
    prepared.set()
    await finished(jobs)
    assert outbox.reports == [PreparingVoice("v"), VoicePrepared("v"), JobStarted("j")]


# --- credit ---------------------------------------------------------------------------------------


async def test_job_waits_when_its_credit_is_used_up(jobs: JobRunner, outbox: Outbox) -> None:
    jobs.start(request("j", "one " * 10, credit=2 * TOKEN))
    await outbox.wait_for(lambda: outbox.samples("j") == 2 * TOKEN)
    await until(lambda: jobs.under_way == {})
    jobs.start(request("other", "one " * 100))  # is not delayed
    await outbox.wait_for(lambda: outbox.ends("other") != [])
    jobs.grant(Credit("j", 5 * TOKEN))
    assert outbox.samples("j") == 2 * TOKEN
    await outbox.wait_for(lambda: outbox.samples("j") == 5 * TOKEN)
    jobs.grant(Credit("j", 100 * TOKEN))
    await finished(jobs)
    assert outbox.ends("j") == [JobDone("j", 10, 10 * TOKEN)]


async def test_old_and_repeated_credit_is_ignored_and_the_waiting_job_can_be_cancelled(
    jobs: JobRunner, outbox: Outbox
) -> None:
    jobs.start(request("j", "one " * 10, credit=2 * TOKEN))
    for samples in (4 * TOKEN, TOKEN, 4 * TOKEN, TOKEN):  # the last one is outdated
        jobs.grant(Credit("j", samples))
    await outbox.wait_for(lambda: outbox.samples("j") == 4 * TOKEN)
    await until(lambda: jobs.under_way == {})
    for version in (1, 2):
        jobs.cancel_missing(ActiveJobs(version, []))
    await finished(jobs)
    jobs.grant(Credit("j", 9 * TOKEN))
    assert outbox.ends("j") == [JobCancelled("j")]
    assert outbox.samples("j") == 4 * TOKEN


# --- giving a slot up -----------------------------------------------------------------------------

CHUNKS = "audio9 one two three. " * 3


def long_request(**changes: Any) -> Synthesize:
    params = msgspec.structs.replace(PLAIN, text_processing_chunk_size=24)
    return msgspec.structs.replace(request("j", CHUNKS), params=params, **changes)


@pytest.mark.parametrize("credit", [10**9, 9 * TOKEN])
async def test_job_that_yields_ends_its_text_chunk_and_goes_on_anywhere(
    jobs: JobRunner, outbox: Outbox, credit: int
) -> None:
    jobs.start(long_request(credit=credit))
    await outbox.wait_for(lambda: outbox.samples("j") == 9 * TOKEN)
    if credit < 10**9:
        await until(lambda: jobs.under_way == {})
    jobs.preempt(Preempt("j"))
    jobs.preempt(Preempt("another"))
    await outbox.wait_for(lambda: outbox.ends("j") != [])
    [aside] = outbox.ends("j")
    assert isinstance(aside, JobPreempted)
    assert aside.samples == 12 * TOKEN * aside.resume_point.text_chunk < 36 * TOKEN
    resumed = long_request(
        chunks=aside.chunks, samples=aside.samples, resume_point=aside.resume_point
    )
    jobs.start(resumed)  # at once, under the same name
    await finished(jobs)
    assert outbox.ends("j") == [aside, JobDone("j", 12, 36 * TOKEN)]
    assert outbox.audio("j") == expected_pcm(CHUNKS, PLAIN.seed)


async def test_job_that_yields_during_its_last_text_chunk_is_done(
    jobs: JobRunner, outbox: Outbox
) -> None:
    jobs.start(request("j", "audio9 one"))
    jobs.preempt(Preempt("j"))
    await finished(jobs)
    assert outbox.ends("j") == [JobDone("j", 2, 10 * TOKEN)]


# --- cancelling -----------------------------------------------------------------------------------


async def test_cancels_a_job_that_is_not_listed(jobs: JobRunner, outbox: Outbox) -> None:
    jobs.start(request("j", "one sleep30"))
    jobs.start(request("other", "one sleep0 one"))
    jobs.start(request("newer than the list", "sleep0 one", active_version=5))
    await outbox.wait_for(lambda: outbox.samples("j") > 0)
    jobs.cancel_missing(ActiveJobs(4, ["other"]))
    await finished(jobs)
    assert outbox.ends("newer than the list") == [JobDone("newer than the list", 1, TOKEN)]
    assert outbox.ends("j") == [JobCancelled("j")]
    assert outbox.ends("other") == [JobDone("other", 2, 2 * TOKEN)]


@pytest.mark.fault(14)
async def test_job_cancelled_at_any_moment_ends_once_and_sends_no_audio_afterwards(
    jobs: JobRunner, outbox: Outbox
) -> None:
    rng = random.Random(1)
    for number in range(300):
        jobs.start(request(str(number), rng.choice(("one", "one raise"))))
        if number % 10:
            for _ in range(rng.randrange(60)):
                await asyncio.sleep(0)
            jobs.cancel_missing(ActiveJobs(1, []))
        else:
            await finished(jobs)
            jobs.cancel_missing(ActiveJobs(1, []))
    await finished(jobs)
    ends = [outbox.ends(str(number)) for number in range(300)]
    assert all(len(end) == 1 for end in ends)
    assert {type(end) for [end] in ends} == {JobDone, JobFailed, JobCancelled}
    last = {message.job: message for message, _ in outbox.sent}
    assert not [message for message in last.values() if isinstance(message, AudioChunk)]
    assert jobs.under_way == {}


# --- a device that is full or broken --------------------------------------------------------------


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Holds the files that the engine leaves behind."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.fault(9)
@pytest.mark.usefixtures("own_folder")
async def test_job_out_of_memory_is_retried_after_memory_was_freed(
    jobs: JobRunner, outbox: Outbox, engine: ScriptedEngine
) -> None:
    text = "sleep0.01 oom1 audio3"
    jobs.start(request("a", text))
    await finished(jobs)
    assert engine.freed == 1
    assert outbox.audio("a") == expected_pcm(text, PLAIN.seed)
    assert outbox.ends("a") == [JobDone("a", 1, 3 * TOKEN)]


@pytest.mark.parametrize("before", ["", "audio3 sleep0.05"])
async def test_job_out_of_memory_twice_or_after_audio_fails(
    jobs: JobRunner, outbox: Outbox, engine: ScriptedEngine, before: str
) -> None:
    jobs.start(request("a", f"{before} oom audio3"))
    await finished(jobs)
    assert engine.freed == 1
    assert [end.code for end in outbox.ends("a") if isinstance(end, JobFailed)] == ["out_of_memory"]
    assert outbox.audio("a") == expected_pcm(before, PLAIN.seed)


async def test_worker_out_of_memory_twice_in_a_row_is_replaced(jobs: JobRunner) -> None:
    for text in ("oom", "audio1", "oom", "raise", "oom"):
        assert not jobs.restart_request.done()
        jobs.start(request(text, text))
        await finished(jobs)
    exit_report = jobs.restart_request.result()
    assert "memory" in exit_report.message
    assert exit_report.job is None


async def test_concurrent_jobs_out_of_memory_count_once(jobs: JobRunner, outbox: Outbox) -> None:
    for name in ("a", "b", "c"):
        jobs.start(request(name, "sleep0.05 oom"))
    await finished(jobs)
    for name in ("a", "b", "c"):
        assert [end.code for end in outbox.ends(name)] == ["out_of_memory"]
    assert not jobs.restart_request.done()


@pytest.mark.usefixtures("own_folder")
async def test_resumed_job_out_of_memory_is_retried_too(jobs: JobRunner, outbox: Outbox) -> None:
    point = ResumePoint(text_chunk=1)
    chunk = "oom1 audio9 one two. "
    resumed = long_request(text=chunk * 2, chunks=3, samples=11 * TOKEN, resume_point=point)
    jobs.start(resumed)
    await finished(jobs)
    assert outbox.ends("j") == [JobDone("j", 6, 22 * TOKEN)]


@pytest.mark.usefixtures("own_folder")
@pytest.mark.parametrize("after_s", [0, 0.03, 0.05, 0.1])
async def test_retried_job_can_be_cancelled_at_any_moment(
    jobs: JobRunner, outbox: Outbox, after_s: float
) -> None:
    jobs.start(request("a", "sleep0.03 oom1 sleep60 audio1"))
    await asyncio.sleep(after_s)
    jobs.cancel_missing(ActiveJobs(1, []))
    async with asyncio.timeout(2):
        await jobs.wait_idle()
    assert len(outbox.ends("a")) == 1
    assert not isinstance(outbox.ends("a")[0], JobDone)


async def test_worker_whose_device_failed_is_replaced_and_sends_no_end_of_the_job(
    jobs: JobRunner, outbox: Outbox
) -> None:
    jobs.start(request("a", "broken audio1"))
    jobs.start(request("b", "sleep0.05 audio1"))
    await finished(jobs)
    exit_report = jobs.restart_request.result()
    assert "device-side assert" in exit_report.message
    assert exit_report.job == "a"
    assert outbox.ends("a") == outbox.ends("b") == []


async def test_voice_that_breaks_the_device_is_blamed_with_the_job_that_waits_for_it(
    jobs: JobRunner, outbox: Outbox, engine: ScriptedEngine, tmp_path: Path
) -> None:
    async def fail(samples: Samples, rate: int) -> int:
        raise DeviceFailed("assert")

    engine.prepare_voice = fail  # type: ignore[method-assign]
    (tmp_path / "bad").write_bytes(HEADER.pack(24_000, 100) + bytes(400))
    jobs.start(request("a", "audio1", voice="bad"))
    await finished(jobs)
    assert jobs.restart_request.result() == WorkerFailed(
        "the device has failed: assert", "a", "bad"
    )
    assert outbox.reports == [JobStarted("a"), PreparingVoice("bad")]
