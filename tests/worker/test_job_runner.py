"""Jobs on a real pipeline with the scripted engine; `Outbox` keeps what they say to the master."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from app.core.engine_config import EngineConfig, QueueSizes
from app.ipc.messages import (
    AudioChunk,
    Credit,
    JobCancelled,
    JobDone,
    JobFailed,
    JobReceived,
    JobResult,
    LiveJobs,
    Result,
    Synthesize,
)
from app.pipeline.pipeline import Pipeline
from app.worker.job_runner import Jobs
from app.worker.voice_cache import PreparedVoices
from tests.ipc.test_messages import PARAMS
from tests.support.engines import SAMPLES_PER_TOKEN, NumberlessDecoder, ScriptedEngine, expected_pcm
from tests.support.waiting import PATIENCE_S, until

PLAIN = msgspec.structs.replace(PARAMS, crossfade_duration_milliseconds=0)
TOKEN = SAMPLES_PER_TOKEN


class Outbox:
    """The master, as far as one worker's jobs know it: what is received gets `first_credit`."""

    def __init__(self) -> None:
        self.sent: list[tuple[Result, bytes]] = []
        self.received: list[str] = []
        self.first_credit = 10**9
        self.grant: Callable[[Credit], None]
        self._sent_more = asyncio.Event()

    async def send(self, message: Result, pcm: bytes | None = None) -> None:
        if isinstance(message, JobReceived):
            self.received.append(message.job)
            self.grant(Credit(message.job, self.first_credit))
        else:
            self.sent.append((message, pcm or b""))
        self._sent_more.set()

    async def holds(self, condition: Callable[[], bool]) -> None:
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
async def jobs(engine: ScriptedEngine, outbox: Outbox, tmp_path: Path) -> AsyncIterator[Jobs]:
    pipeline = Pipeline(engine, QueueSizes(2, 3))
    jobs = Jobs(engine, pipeline, PreparedVoices(engine, tmp_path), outbox.send)
    outbox.grant = jobs.credit
    yield jobs
    jobs.keep(LiveJobs(10**9, []))
    await jobs.finish()
    pipeline.close()


def request(job: str, text: str, *, live_version: int = 1) -> Synthesize:
    return Synthesize(job, text, None, PLAIN, live_version)


async def finished(jobs: Jobs) -> None:
    await asyncio.wait_for(jobs.finish(), PATIENCE_S)


# --- how a job goes -------------------------------------------------------------------------------


async def test_a_job_sends_its_audio_and_then_its_totals(jobs: Jobs, outbox: Outbox) -> None:
    jobs.start(request("j", "audio2 one"))
    await finished(jobs)
    assert [message for message, _ in outbox.sent] == [
        AudioChunk("j", 0),
        AudioChunk("j", 1),
        JobDone("j", 2, 3 * TOKEN),
    ]
    assert outbox.audio("j") == expected_pcm("audio2 one", PLAIN.seed)


async def test_a_job_begins_when_the_master_knows_that_it_is_here(
    jobs: Jobs, outbox: Outbox, engine: ScriptedEngine
) -> None:
    outbox.first_credit = 0
    jobs.start(request("j", "one"))
    await until(lambda: jobs.working == 0)
    assert outbox.received == ["j"]
    assert engine.steps == 0
    jobs.credit(Credit("j", TOKEN))
    await finished(jobs)
    assert outbox.ends("j") == [JobDone("j", 1, TOKEN)]


async def test_an_engines_error_is_told_without_its_details(jobs: Jobs, outbox: Outbox) -> None:
    jobs.start(request("j", "one raise"))
    await finished(jobs)
    assert outbox.ends("j") == [JobFailed("j", "engine_error", "the speech engine failed")]


async def test_an_error_of_ours_says_what_it_is(
    jobs: Jobs, outbox: Outbox, engine: ScriptedEngine
) -> None:
    engine.new_decoder = lambda voice, params: NumberlessDecoder(voice, params.seed)  # type: ignore[method-assign]
    jobs.start(request("j", "one"))
    await finished(jobs)
    [end] = outbox.ends("j")
    assert isinstance(end, JobFailed)
    assert "not numbers" in end.message


async def test_an_error_names_the_parameter_at_fault(jobs: Jobs, outbox: Outbox) -> None:
    jobs.start(request("j", "one mute"))
    await finished(jobs)
    told = "scripted: nothing to say"
    assert outbox.ends("j") == [JobFailed("j", "empty_text", told, "text")]


async def test_jobs_run_side_by_side(jobs: Jobs, outbox: Outbox) -> None:
    for number in range(5):
        jobs.start(request(str(number), "one sleep0 audio3 " * 5))
    assert jobs.working == 5
    await finished(jobs)
    assert jobs.working == 0
    for number in range(5):
        assert outbox.audio(str(number)) == expected_pcm("one sleep0 audio3 " * 5, PLAIN.seed)


# --- credit ---------------------------------------------------------------------------------------


async def test_a_job_waits_when_its_credit_is_used_up(jobs: Jobs, outbox: Outbox) -> None:
    outbox.first_credit = 2 * TOKEN
    jobs.start(request("j", "one " * 10))
    await outbox.holds(lambda: outbox.samples("j") == 2 * TOKEN)
    await until(lambda: jobs.working == 0)
    jobs.credit(Credit("j", 5 * TOKEN))
    assert outbox.samples("j") == 2 * TOKEN
    await outbox.holds(lambda: outbox.samples("j") == 5 * TOKEN)
    jobs.credit(Credit("j", 100 * TOKEN))
    await finished(jobs)
    assert outbox.ends("j") == [JobDone("j", 10, 10 * TOKEN)]


async def test_old_and_repeated_credit_does_no_harm(jobs: Jobs, outbox: Outbox) -> None:
    outbox.first_credit = 2 * TOKEN
    jobs.start(request("j", "one " * 10))
    for samples in (4 * TOKEN, TOKEN, 4 * TOKEN, TOKEN):  # an old one comes last
        jobs.credit(Credit("j", samples))
    await outbox.holds(lambda: outbox.samples("j") == 4 * TOKEN)
    await until(lambda: jobs.working == 0)
    assert outbox.ends("j") == []


async def test_credit_for_a_job_that_is_over_is_ignored(jobs: Jobs, outbox: Outbox) -> None:
    jobs.credit(Credit("j", 1))
    assert outbox.sent == []


async def test_who_waits_for_credit_keeps_nobody_waiting(jobs: Jobs, outbox: Outbox) -> None:
    outbox.first_credit = TOKEN
    jobs.start(request("slow", "one " * 100))
    await until(lambda: jobs.working == 0)
    outbox.first_credit = 10**9
    jobs.start(request("quick", "one " * 100))
    await outbox.holds(lambda: outbox.ends("quick") != [])
    assert outbox.samples("slow") == TOKEN


# --- cancelling -----------------------------------------------------------------------------------


async def test_a_job_that_is_not_listed_is_cancelled(jobs: Jobs, outbox: Outbox) -> None:
    jobs.start(request("j", "one sleep30"))
    jobs.start(request("other", "one sleep0 one"))
    await outbox.holds(lambda: outbox.samples("j") > 0)
    jobs.keep(LiveJobs(1, ["other"]))
    await finished(jobs)
    assert outbox.ends("j") == [JobCancelled("j")]
    assert outbox.ends("other") == [JobDone("other", 2, 2 * TOKEN)]


async def test_a_list_older_than_a_job_says_nothing_about_it(jobs: Jobs, outbox: Outbox) -> None:
    jobs.start(request("j", "sleep0 one", live_version=5))
    jobs.keep(LiveJobs(4, []))
    await finished(jobs)
    assert outbox.ends("j") == [JobDone("j", 1, TOKEN)]


async def test_a_job_cancelled_before_it_began_says_so_once(jobs: Jobs, outbox: Outbox) -> None:
    jobs.start(request("j", "one"))
    jobs.keep(LiveJobs(1, []))
    await finished(jobs)
    assert outbox.sent == [(JobCancelled("j"), b"")]


async def test_a_job_is_cancelled_while_it_waits_for_credit(jobs: Jobs, outbox: Outbox) -> None:
    outbox.first_credit = TOKEN
    jobs.start(request("j", "one " * 10))
    await until(lambda: jobs.working == 0)
    jobs.keep(LiveJobs(1, []))
    await finished(jobs)
    assert outbox.ends("j") == [JobCancelled("j")]
    assert outbox.samples("j") == TOKEN


async def test_being_told_twice_cancels_once(jobs: Jobs, outbox: Outbox) -> None:
    jobs.start(request("j", "one sleep30"))
    await outbox.holds(lambda: outbox.samples("j") > 0)
    for version in range(1, 5):
        jobs.keep(LiveJobs(version, []))
        await asyncio.sleep(0)
    await finished(jobs)
    assert outbox.ends("j") == [JobCancelled("j")]


async def test_a_list_after_the_end_changes_nothing(jobs: Jobs, outbox: Outbox) -> None:
    jobs.start(request("j", "one"))
    await outbox.holds(lambda: outbox.ends("j") != [])
    jobs.keep(LiveJobs(1, []))
    await finished(jobs)
    assert outbox.ends("j") == [JobDone("j", 1, TOKEN)]


@pytest.mark.fault(14)
async def test_whenever_it_is_cancelled_a_job_has_exactly_one_end(
    jobs: Jobs, outbox: Outbox
) -> None:
    dice = random.Random(1)
    for number in range(300):
        jobs.start(request(str(number), dice.choice(("one", "one raise"))))
        if number % 10:
            for _ in range(dice.randrange(60)):
                await asyncio.sleep(0)
            jobs.keep(LiveJobs(1, []))
        else:
            await finished(jobs)
    await finished(jobs)
    ends = [outbox.ends(str(number)) for number in range(300)]
    assert all(len(end) == 1 for end in ends)
    assert {type(end) for [end] in ends} == {JobDone, JobFailed, JobCancelled}
    assert jobs.working == 0


async def test_nothing_is_said_after_the_end(jobs: Jobs, outbox: Outbox) -> None:
    for number in range(20):
        jobs.start(request(str(number), "one " * number))
        await asyncio.sleep(0)
    jobs.keep(LiveJobs(1, [str(number) for number in range(0, 20, 2)]))
    await finished(jobs)
    for number in range(20):
        last = [message for message, _ in outbox.sent if message.job == str(number)][-1]
        assert not isinstance(last, AudioChunk)


# --- a device that is full or broken --------------------------------------------------------------


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the engine leaves its marks."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.fault(9)
@pytest.mark.usefixtures("own_folder")
async def test_a_job_that_finds_no_memory_is_tried_again_when_some_was_freed(
    jobs: Jobs, outbox: Outbox, engine: ScriptedEngine
) -> None:
    text = "sleep0.01 oom1 audio3"
    jobs.start(request("a", text))
    await finished(jobs)
    assert engine.freed == 1
    assert outbox.audio("a") == expected_pcm(text, PLAIN.seed)
    assert outbox.ends("a") == [JobDone("a", 1, 3 * TOKEN)]


async def test_a_job_that_finds_no_memory_twice_fails(
    jobs: Jobs, outbox: Outbox, engine: ScriptedEngine
) -> None:
    jobs.start(request("a", "oom audio3"))
    await finished(jobs)
    assert engine.freed == 1
    [end] = outbox.ends("a")
    assert isinstance(end, JobFailed)
    assert end.code == "out_of_memory"
    assert outbox.samples("a") == 0


async def test_a_job_that_was_heard_already_is_not_tried_again(
    jobs: Jobs, outbox: Outbox, engine: ScriptedEngine
) -> None:
    jobs.start(request("a", "audio3 sleep0.05 oom audio3"))
    await finished(jobs)
    assert engine.freed == 1
    assert [end.code for end in outbox.ends("a") if isinstance(end, JobFailed)] == ["out_of_memory"]
    assert outbox.audio("a") == expected_pcm("audio3", PLAIN.seed)


async def test_a_worker_that_is_short_of_memory_twice_in_a_row_must_go(jobs: Jobs) -> None:
    for text in ("oom", "audio1", "oom", "raise", "oom"):
        assert not jobs.unfit.done()
        jobs.start(request(text, text))
        await finished(jobs)
    last_words = jobs.unfit.result()
    assert "memory" in last_words.message
    assert last_words.job is None


async def test_one_moment_without_memory_counts_once_however_many_jobs_it_meets(
    jobs: Jobs, outbox: Outbox
) -> None:
    for name in ("a", "b", "c"):
        jobs.start(request(name, "sleep0.05 oom"))
    await finished(jobs)
    for name in ("a", "b", "c"):
        assert [end.code for end in outbox.ends(name)] == ["out_of_memory"]
    assert not jobs.unfit.done()


@pytest.mark.usefixtures("own_folder")
@pytest.mark.parametrize("after_s", [0, 0.03, 0.05, 0.1])
async def test_a_job_that_is_tried_again_can_be_cancelled_at_any_moment(
    jobs: Jobs, outbox: Outbox, after_s: float
) -> None:
    jobs.start(request("a", "sleep0.03 oom1 sleep60 audio1"))
    await asyncio.sleep(after_s)
    jobs.keep(LiveJobs(1, []))
    async with asyncio.timeout(2):
        await jobs.finish()
    assert len(outbox.ends("a")) == 1
    assert not isinstance(outbox.ends("a")[0], JobDone)


async def test_a_worker_whose_device_failed_must_go_and_says_nothing_of_the_job(
    jobs: Jobs, outbox: Outbox
) -> None:
    jobs.start(request("a", "broken audio1"))
    jobs.start(request("b", "sleep0.05 audio1"))
    await finished(jobs)
    last_words = jobs.unfit.result()
    assert "device-side assert" in last_words.message
    assert last_words.job == "a"
    assert outbox.ends("a") == outbox.ends("b") == []
