import asyncio
import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from app.core.audio import Samples
from app.core.engine_config import EngineConfig
from app.core.errors import DeviceFailed
from app.worker.voice_cache import PreparedVoices
from tests.support.engines import ScriptedEngine, voice_code
from tests.support.waiting import until

RATE = 24_000


class CountingEngine(ScriptedEngine):
    """Counts what it prepares, and how much of that at once; waits for `may_go_on` before it."""

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
async def voices(engine: CountingEngine, tmp_path: Path) -> PreparedVoices:
    """Knows the decoded voices `a`, `b` and `c`, of 100, 200 and 300 samples."""
    for number, digest in enumerate("abc", 1):
        store(tmp_path / digest, np.zeros(100 * number, np.float32))
    return PreparedVoices(engine, tmp_path)


def store(path: Path, samples: Samples) -> None:
    """As decoding leaves a voice: its rate, then its samples."""
    path.write_bytes(np.uint32(RATE).tobytes() + samples.tobytes())


def code(samples: int) -> int:
    return voice_code(np.zeros(samples, np.float32))


async def test_a_voice_is_prepared_once(voices: PreparedVoices, engine: CountingEngine) -> None:
    voices.follow({"a"})
    voices.follow({"a"})
    assert await asyncio.gather(*(voices.get("a") for _ in range(5))) == [code(100)] * 5
    assert len(engine.prepared) == 1


async def test_without_a_voice_there_is_the_engines_own(
    voices: PreparedVoices, engine: CountingEngine
) -> None:
    assert await voices.get(None) == engine.default_voice
    assert not engine.prepared


async def test_what_is_new_is_ready_before_it_is_asked_for(
    voices: PreparedVoices, engine: CountingEngine
) -> None:
    voices.follow({"a", "b", "c"})
    await voices.settled()
    assert len(engine.prepared) == 3
    assert await voices.get("b") == code(200)
    assert len(engine.prepared) == 3


async def test_voices_are_prepared_one_after_the_other(
    voices: PreparedVoices, engine: CountingEngine
) -> None:
    voices.follow({"a", "b", "c"})
    await voices.settled()
    assert engine.most_at_once == 1


async def test_a_voice_that_a_job_waits_for_is_the_next(
    voices: PreparedVoices, engine: CountingEngine, tmp_path: Path
) -> None:
    for number in range(4, 20):
        store(tmp_path / str(number), np.zeros(100 * number, np.float32))
    engine.may_go_on.clear()
    voices.follow({"a"})
    await until(lambda: engine.at_once == 1)
    voices.follow({"a", "b", "c"} | {str(number) for number in range(4, 20)})
    jobs = [asyncio.create_task(voices.get(digest)) for digest in ("19", "7", "19")]
    await asyncio.sleep(0)
    engine.may_go_on.set()
    assert await asyncio.gather(*jobs) == [code(1900), code(700), code(1900)]
    await voices.settled()
    assert engine.prepared[0] == 100
    assert set(engine.prepared[1:3]) == {1900, 700}
    assert len(engine.prepared) == 19


async def test_each_voice_is_a_step_when_it_is_over_with(
    voices: PreparedVoices, engine: CountingEngine
) -> None:
    voices.follow({"gone"})
    await voices.settled()
    assert voices.steps == 1
    engine.may_go_on.clear()
    voices.follow({"a", "b"})
    await until(lambda: engine.at_once == 1)
    assert voices.steps == 1
    engine.may_go_on.set()
    await voices.settled()
    assert voices.steps == 3


async def test_a_dropped_voice_is_forgotten(voices: PreparedVoices, engine: CountingEngine) -> None:
    voices.follow({"a", "b"})
    await voices.settled()
    voices.follow({"b"})
    voices.follow({"a", "b"})
    await voices.settled()
    assert len(engine.prepared) == 3


async def test_a_job_accepted_before_its_voice_was_dropped_still_gets_it(
    voices: PreparedVoices, engine: CountingEngine
) -> None:
    engine.may_go_on.clear()
    voices.follow({"a"})
    job = asyncio.create_task(voices.get("a"))
    await asyncio.sleep(0)
    voices.follow(set())
    engine.may_go_on.set()
    assert await job == code(100)
    assert await voices.get("a") == code(100)


async def test_a_cancelled_job_spoils_no_voice(
    voices: PreparedVoices, engine: CountingEngine
) -> None:
    engine.may_go_on.clear()
    leaves, stays = (asyncio.create_task(voices.get("a")) for _ in range(2))
    await asyncio.sleep(0)
    leaves.cancel()
    await asyncio.wait([leaves])
    assert leaves.cancelled()
    engine.may_go_on.set()
    assert await stays == code(100)


async def test_a_voice_that_cannot_be_prepared_fails_its_jobs_only(
    voices: PreparedVoices, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store(tmp_path / "bad", np.empty(0, np.float32))
    voices.follow({"bad", "a"})
    await voices.settled()
    assert "voice bad cannot be prepared" in caplog.text
    with pytest.raises(ValueError, match="no voice in it"):
        await voices.get("bad")
    assert await voices.get("a") == code(100)


async def test_a_voice_that_is_gone_may_come_back(voices: PreparedVoices, tmp_path: Path) -> None:
    voices.follow({"late"})
    await voices.settled()
    store(tmp_path / "late", np.zeros(400, np.float32))
    voices.follow({"late"})
    assert await voices.get("late") == code(400)


async def test_nothing_to_prepare_is_settled_at_once(voices: PreparedVoices) -> None:
    await voices.settled()


async def test_a_voice_that_failed_once_is_tried_again_for_a_job_but_not_by_itself(
    voices: PreparedVoices, engine: CountingEngine, tmp_path: Path
) -> None:
    store(tmp_path / "d", np.zeros(0, np.float32))
    voices.follow({"d"})
    await voices.settled()
    voices.follow({"d"})
    await voices.settled()
    assert len(engine.prepared) == 1
    store(tmp_path / "d", np.zeros(400, np.float32))
    assert await voices.get("d") == code(400)


def pid_of_the_dead() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


@pytest.mark.parametrize(("deaths", "prepared"), [(1, [100]), (2, [])])
async def test_a_voice_that_workers_died_of_is_prepared_for_a_job_only(
    voices: PreparedVoices, engine: CountingEngine, tmp_path: Path, deaths: int, prepared: list[int]
) -> None:
    for _ in range(deaths):
        (tmp_path / f"a.{pid_of_the_dead()}").touch()
    voices.follow({"a"})
    await voices.settled()
    assert engine.prepared == prepared
    assert await voices.get("a") == code(100)
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


async def test_a_voice_that_others_prepare_just_now_is_prepared(
    voices: PreparedVoices, engine: CountingEngine, tmp_path: Path
) -> None:
    for pid in (os.getppid(), 1):
        (tmp_path / f"a.{pid}").touch()
    voices.follow({"a"})
    await voices.settled()
    assert engine.prepared == [100]


async def test_a_voice_that_breaks_the_device_leaves_a_mark_and_is_told_of(
    voices: PreparedVoices, engine: CountingEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks(samples: Samples, rate: int) -> int:
        raise DeviceFailed("assert")

    told: list[tuple[str, str]] = []
    voices.on_device_failure = lambda digest, fault: told.append((digest, str(fault)))
    monkeypatch.setattr(engine, "prepare_voice", breaks)
    voices.follow({"a"})
    await voices.settled()
    voices.follow({"a", "b"})
    await voices.settled()
    await asyncio.sleep(0)
    assert told[0] == ("a", "assert")
    assert sorted(os.listdir(tmp_path)) == ["a", f"a.{os.getpid()}", "b", "c"]


async def test_a_voice_that_cannot_be_marked_is_prepared(
    voices: PreparedVoices, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "touch", full)
    assert await voices.get("a") == code(100)
