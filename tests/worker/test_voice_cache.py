import asyncio
from collections.abc import Set
from pathlib import Path

import numpy as np
import pytest

import app.worker.voice_cache as voice_cache_module
from app.audio.decode_limits import HEADER
from app.core.audio import Samples
from app.core.engine_config import EngineConfig
from app.core.errors import DeviceFailed, StorageUnavailable
from app.ipc.messages import (
    PreparingVoice,
    VoiceDropped,
    VoiceFailed,
    VoicePrepared,
    VoiceReport,
    Voices,
)
from app.worker.voice_cache import VoiceCache
from tests.support.engines import ScriptedEngine, voice_code
from tests.support.waiting import until

RATE = 24_000


class CountingEngine(ScriptedEngine):
    """Counts preparations, and how many run at once; each waits for `may_go_on`."""

    def __init__(self) -> None:
        super().__init__(EngineConfig("cpu", 1, ""))
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.prepared: list[int] = []
        self.at_once = 0
        self.most_at_once = 0

    async def prepare_voice(self, samples: Samples, rate: int) -> int:
        assert rate == RATE
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        await asyncio.sleep(0)
        await self.may_go_on.wait()
        self.at_once -= 1
        self.prepared.append(len(samples))
        if not len(samples):
            raise ValueError("no voice in it")
        return await super().prepare_voice(samples, rate)


@pytest.fixture
async def engine() -> CountingEngine:
    return CountingEngine()


@pytest.fixture
def reports() -> list[VoiceReport]:
    return []


@pytest.fixture
async def voices(engine: CountingEngine, tmp_path: Path, reports: list[VoiceReport]) -> VoiceCache:
    """Can prepare the decoded voices `a`, `b` and `c`, of 100, 200 and 300 samples."""
    for number, digest in enumerate("abc", 1):
        store(tmp_path / digest, np.zeros(100 * number, np.float32))
    return VoiceCache(engine, tmp_path, reports.append)


def store(path: Path, samples: Samples) -> None:
    """Write a decoded voice: its rate, then its samples."""
    path.write_bytes(HEADER.pack(RATE, len(samples)) + samples.tobytes())


def listed(*digests: str, crashed: Set[str] = frozenset()) -> Voices:
    return Voices(frozenset(digests), frozenset(crashed))


def code(samples: int) -> int:
    return voice_code(np.zeros(samples, np.float32))


async def test_listed_voices_are_prepared_once_and_one_at_a_time(
    voices: VoiceCache, engine: CountingEngine
) -> None:
    await voices.wait_idle()
    assert await voices.get(None) == engine.default_voice
    for _ in range(2):
        voices.sync(listed("a", "b", "c"))
    assert await asyncio.gather(*(voices.get("a") for _ in range(5))) == [code(100)] * 5
    await voices.wait_idle()
    assert sorted(engine.prepared) == [100, 200, 300]
    assert engine.most_at_once == 1
    assert voices.steps == 3


async def test_prepares_voices_first_that_jobs_wait_for(
    voices: VoiceCache, engine: CountingEngine, tmp_path: Path
) -> None:
    for number in range(4, 20):
        store(tmp_path / str(number), np.zeros(100 * number, np.float32))
    engine.may_go_on.clear()
    voices.sync(listed("a"))
    await until(lambda: engine.at_once == 1)
    voices.sync(listed("a", "b", "c", *(str(number) for number in range(4, 20))))
    jobs = [asyncio.create_task(voices.get(digest)) for digest in ("19", "7", "19")]
    await asyncio.sleep(0)
    engine.may_go_on.set()
    assert await asyncio.gather(*jobs) == [code(1900), code(700), code(1900)]
    await voices.wait_idle()
    assert engine.prepared[0] == 100
    assert set(engine.prepared[1:3]) == {1900, 700}
    assert len(engine.prepared) == 19


async def test_job_gets_its_voice_though_it_was_dropped_meanwhile(
    voices: VoiceCache, engine: CountingEngine, reports: list[VoiceReport]
) -> None:
    engine.may_go_on.clear()
    voices.sync(listed("a"))
    job = asyncio.create_task(voices.get("a"))
    await until(lambda: engine.at_once == 1)
    voices.sync(listed())
    engine.may_go_on.set()
    assert await job == code(100)
    await until(lambda: len(reports) == 3)
    assert reports == [PreparingVoice("a"), VoicePrepared("a"), VoiceDropped("a")]
    assert await voices.get("a") == code(100)
    assert engine.prepared == [100, 100]


async def test_cancelled_job_does_not_cancel_the_preparation(
    voices: VoiceCache, engine: CountingEngine
) -> None:
    engine.may_go_on.clear()
    leaves, stays = (asyncio.create_task(voices.get("a")) for _ in range(2))
    await asyncio.sleep(0)
    leaves.cancel()
    await asyncio.wait([leaves])
    assert leaves.cancelled()
    engine.may_go_on.set()
    assert await stays == code(100)


async def test_failed_voice_fails_its_own_jobs_only_and_is_prepared_again_for_a_job(
    voices: VoiceCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store(tmp_path / "d", np.empty(0, np.float32))
    for _ in range(2):
        voices.sync(listed("d", "a"))
        await voices.wait_idle()
    assert caplog.text.count("voice d cannot be prepared") == 1
    assert voices.steps == 2
    with pytest.raises(ValueError, match="no voice in it"):
        await voices.get("d")
    assert await voices.get("a") == code(100)
    store(tmp_path / "d", np.zeros(400, np.float32))
    assert await voices.get("d") == code(400)


async def test_voice_is_prepared_after_its_file_is_restored(
    voices: VoiceCache, tmp_path: Path
) -> None:
    voices.sync(listed("late"))
    await voices.wait_idle()
    store(tmp_path / "late", np.zeros(400, np.float32))
    voices.sync(listed("late"))
    await voices.wait_idle()
    assert voices.steps == 2
    assert await voices.get("late") == code(400)


async def test_crashed_voice_is_prepared_only_for_a_job(
    voices: VoiceCache, engine: CountingEngine, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        voices.sync(listed("a", "b", crashed={"a"}))
        await voices.wait_idle()
    assert engine.prepared == [200]
    assert caplog.text.count("it is prepared only on demand") == 1
    assert await voices.get("a") == code(100)


async def test_voice_that_crashed_others_while_it_waited_is_not_prepared(
    voices: VoiceCache, engine: CountingEngine, reports: list[VoiceReport]
) -> None:
    engine.may_go_on.clear()
    voices.sync(listed("a"))
    await until(lambda: engine.at_once == 1)
    voices.sync(listed("a", "b"))
    voices.sync(listed("a", "b", crashed={"b"}))
    engine.may_go_on.set()
    await voices.wait_idle()
    assert engine.prepared == [100]
    assert PreparingVoice("b") not in reports
    assert await voices.get("b") == code(200)


async def test_preparation_is_reported_before_and_after(
    voices: VoiceCache, engine: CountingEngine, reports: list[VoiceReport], tmp_path: Path
) -> None:
    store(tmp_path / "bad", np.empty(0, np.float32))
    engine.may_go_on.clear()
    voices.sync(listed("a"))
    await until(lambda: engine.at_once == 1)
    assert reports == [PreparingVoice("a")]
    engine.may_go_on.set()
    await voices.wait_idle()
    voices.sync(listed("a", "bad"))
    await voices.wait_idle()
    await asyncio.sleep(0)
    voices.sync(listed())
    assert reports == [
        PreparingVoice("a"),
        VoicePrepared("a"),
        PreparingVoice("bad"),
        VoiceFailed("bad"),
        VoiceDropped("a"),
    ]


async def test_voice_that_breaks_the_device_is_the_last_one(
    voices: VoiceCache,
    engine: CountingEngine,
    reports: list[VoiceReport],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(samples: Samples, rate: int) -> int:
        raise DeviceFailed("assert")

    failures: list[tuple[str, str]] = []
    voices.on_device_failure = lambda digest, fault: failures.append((digest, str(fault)))
    monkeypatch.setattr(engine, "prepare_voice", fail)
    voices.sync(listed("a"))
    await voices.wait_idle()
    voices.sync(listed("a", "b"))
    await voices.wait_idle()
    await asyncio.sleep(0)
    assert failures[0] == ("a", "assert")
    assert reports == [PreparingVoice("a")]


async def test_deleted_voices_are_not_prepared(voices: VoiceCache, engine: CountingEngine) -> None:
    engine.may_go_on.clear()
    voices.sync(listed("a"))
    await until(lambda: engine.at_once == 1)
    voices.sync(listed("a", "b", "c"))
    voices.sync(listed("a", "c"))
    engine.may_go_on.set()
    await voices.wait_idle()
    assert engine.prepared == [100, 300]


async def test_idle_is_not_waited_for_longer_than_asked(
    voices: VoiceCache, engine: CountingEngine
) -> None:
    engine.may_go_on.clear()
    voices.sync(listed("a"))
    await voices.wait_idle(0.01)
    assert voices.under_way
    assert voices.under_way[0] == "a"
    engine.may_go_on.set()
    await voices.wait_idle(60)
    assert voices.under_way is None


async def test_thousands_of_voices_are_prepared_in_linear_time(
    voices: VoiceCache, engine: CountingEngine, tmp_path: Path
) -> None:
    digests = [f"voice-{number}" for number in range(3000)]
    for digest in digests:
        (tmp_path / digest).symlink_to("a")
    voices.sync(listed(*digests))
    async with asyncio.timeout(10):
        await voices.get(digests[-1])
        assert len(engine.prepared) <= 2  # it was next
        await voices.wait_idle()
    assert len(engine.prepared) == 3000


@pytest.mark.fault(86)
async def test_job_waits_for_lost_audio_to_be_decoded_again(
    voices: VoiceCache, reports: list[VoiceReport], tmp_path: Path
) -> None:
    voices.sync(listed("a", "lost"))
    await voices.wait_idle()
    job = asyncio.create_task(voices.get("lost"))
    await until(lambda: reports.count(VoiceFailed("lost")) == 2)
    voices.sync(listed("a", "lost", "b"))  # another change
    await until(lambda: reports.count(VoiceFailed("lost")) == 3)
    assert not job.done()
    store(tmp_path / "lost", np.zeros(400, np.float32))
    voices.sync(listed("a", "lost", "b"))
    assert await job == code(400)


async def test_audio_that_is_not_restored_fails_the_job(
    voices: VoiceCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voice_cache_module, "RESTORE_S", 0.05)
    with pytest.raises(StorageUnavailable):
        await voices.get("lost")


async def test_voices_wait_for_a_job_that_is_to_be_alone(
    voices: VoiceCache, engine: CountingEngine
) -> None:
    engine.may_go_on.clear()
    voices.sync(listed("a"))
    await until(lambda: engine.at_once == 1)
    voices.sync(listed("a", "b", "c"))
    asyncio.get_running_loop().call_later(0.01, engine.may_go_on.set)
    async with voices.held():
        assert engine.prepared == [100]
        await asyncio.sleep(0.02)
        assert await voices.get("c") == code(300)
        await asyncio.sleep(0.02)
        assert engine.prepared == [100, 300]
    await voices.wait_idle()
    assert engine.prepared == [100, 300, 200]
