"""Real worker processes with the scripted engine, and shortened pauses."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec
import psutil
import pytest

import app.backend.local.backend as backend_module
import app.backend.local.managed_worker as managed_worker_module
import app.backend.local.process as process_module
from app.audio.decode_limits import HEADER
from app.backend.base import JobRequest
from app.backend.job_stream import JobStream, Restarted
from app.backend.local.backend import LocalBackend
from app.backend.local.managed_worker import ManagedWorker
from app.backend.local.runtime_dir import RuntimeDir
from app.core.background import BackgroundTasks
from app.core.devices import CPU
from app.core.errors import NotReady, PoisonRequest, WorkerLost, WorkerStalled
from app.core.model import Model, ModelInfo
from app.observability.metrics import Metrics
from app.settings import Settings
from tests.ipc.test_messages import PARAMS
from tests.support.engines import expected_pcm
from tests.support.service import ROOT, SCRIPTED
from tests.support.waiting import PATIENCE_S, until

PLAIN = msgspec.structs.replace(PARAMS, crossfade_duration_milliseconds=0)

ENGINES = """
import asyncio
import subprocess
from pathlib import Path
from app.worker import main
from app.core.errors import StartupError
from tests.support.engines import ScriptedEngine

main.HEARTBEAT_S = 0.1
main.PREPARE_BEFORE_READY_S = 1.5

class NeedsFile(ScriptedEngine):
    def __init__(self, config):
        super().__init__(config)
        if not Path(config.model_path).exists():
            raise StartupError(f"{config.model_path} is missing")

class RunsAway(ScriptedEngine):
    runaways = 3

class NeverWarm(ScriptedEngine):
    async def warm_up(self):
        await asyncio.Event().wait()

class HasHelper(ScriptedEngine):
    async def warm_up(self):
        Path("helper").write_text(str(subprocess.Popen(["sleep", "600"]).pid))

class SlowVoices(ScriptedEngine):
    async def prepare_voice(self, samples, rate):
        await asyncio.sleep(3600 if rate == 8000 else 0.1)
        return await super().prepare_voice(samples, rate)
"""


class BackendEnv:
    """A backend that repeats its state often; `supervise` starts its one worker."""

    def __init__(self, folder: Path) -> None:
        runtime_dir = RuntimeDir(folder, folder)
        self.folder = folder
        self.backend = LocalBackend(
            self._settings(), self._model(SCRIPTED), runtime_dir, Metrics(), BackgroundTasks()
        )
        self.voices = self.backend._voices
        self.voices.set_voices(frozenset())
        self.repeating = asyncio.create_task(self.backend._repeat_state())

    def _settings(self, start_s: float = 60, stall_s: float = 60, idle_s: float = 0) -> Settings:
        return Settings.model_construct(
            model_path=self.folder / "model",
            concurrent_requests_per_worker=2,
            worker_start_seconds=start_s,
            worker_stall_seconds=stall_s,
            model_idle_seconds=idle_s,
        )

    def _model(self, engine: str) -> Model:
        return Model(engine, engine, str(self.folder / "model"), ModelInfo(engine))

    def supervise(self, engine: str = SCRIPTED, **limits: float) -> ManagedWorker:
        self.backend._model = self._model(engine)
        self.backend._settings = self._settings(**limits)
        self.backend.start_workers([CPU])
        return self.backend.workers[0]

    def submit(self, text: str, voice: str | None = None) -> JobStream:
        return self.backend.submit(JobRequest("r", text, voice, PLAIN))

    async def close(self) -> None:
        await self.backend.stop_workers()
        self.repeating.cancel()
        self.backend._broadcaster.close()
        self.backend._context.destroy(linger=0)


@pytest.fixture
async def env(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BackendEnv]:
    monkeypatch.setattr(backend_module, "REPEAT_STATE_S", 0.02)
    monkeypatch.setattr(managed_worker_module, "MAX_BACKOFF_S", 0.01)
    monkeypatch.setattr(managed_worker_module, "WATCH_INTERVAL_S", 0.05)
    monkeypatch.setattr(process_module, "STACK_DUMP_S", 0.5)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test_engines.py").write_text(ENGINES)
        monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{folder}")
        env = BackendEnv(Path(folder))
        yield env
        await env.close()


async def wait_ready(worker: ManagedWorker, *, after: int | None = None) -> int:
    """Wait for a process other than `after` to be ready; return its id."""
    await until(lambda: worker.state == "ready" and worker.pid not in (None, after), 0.01)
    assert worker.pid
    return worker.pid


async def read_all(stream: JobStream) -> bytes:
    """Return all audio of the last attempt."""
    chunks = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            while (pcm := await stream.read()) is not None:
                chunks.append(pcm)
    except Restarted:
        return await read_all(stream)
    stream.close()
    return b"".join(chunks)


# --- running ------------------------------------------------------------------------------------


async def test_worker_is_replaced_with_its_runaways_and_voices(env: BackendEnv) -> None:
    store_voices(env, "a", "b")
    worker = env.supervise("test_engines:RunsAway")
    assert worker.state == "starting"
    with pytest.raises(NotReady):
        env.submit("one")
    first = await wait_ready(worker)
    assert env.backend.ready
    assert env.backend.ready.name == "scripted"
    await until(lambda: worker.heartbeat.latest.steps == 2, 0.01)  # the voices
    assert worker.runaways == 3
    assert env.voices.prepared("cpu.0") == {"a", "b"}
    os.kill(first, signal.SIGKILL)
    await until(lambda: worker.state == "restarting", 0.01)
    assert worker.last_error == "the worker was killed by signal 9 (Killed)"
    assert env.voices.prepared("cpu.0") == frozenset()
    assert await read_all(env.submit("audio3")) == expected_pcm("audio3", PLAIN.seed)
    assert worker.pid not in (None, first)
    assert env.voices.prepared("cpu.0") == {"a", "b"}
    await until(lambda: worker.runaways == 6, 0.01)


# --- a worker that cannot start -------------------------------------------------------------------


@pytest.mark.fault(5)
async def test_repeated_deaths_open_the_circuit_until_a_start_succeeds(
    env: BackendEnv, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(managed_worker_module, "CIRCUIT_OPENS_AT", 2)
    monkeypatch.setattr(managed_worker_module, "CIRCUIT_RETRY_S", 0.5)
    worker = env.supervise("test_engines:NeedsFile")
    await until(lambda: worker.state == "failed", 0.01)
    assert worker.restarts == 2
    assert worker.last_error == f"{env.folder / 'model'} is missing"
    assert "circuit open" in caplog.text
    with pytest.raises(NotReady):
        env.submit("one")
    (env.folder / "model").touch()
    await wait_ready(worker)
    assert await read_all(env.submit("one"))


@pytest.mark.fault(4, 5)
async def test_pauses_double_until_the_circuit_opens_and_a_finished_job_resets_them(
    env: BackendEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managed_worker_module, "MAX_BACKOFF_S", 32)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(env.folder / "no-python"))
        worker = env.supervise()
        await until(lambda: worker.restarts == 1, 0.01)
    assert worker.state == "starting"
    with pytest.raises(NotReady):
        env.submit("one")
    assert "no process can be started" in str(worker.last_error)
    pauses = [worker._count_death(WorkerLost("it died")) for _ in range(6)]
    assert pauses == [2, 4, 8, 60, 60, 60]
    await wait_ready(worker)
    assert await read_all(env.submit("one"))
    assert worker._count_death(WorkerLost("it died")) == 1


def store_voices(env: BackendEnv, *digests: str) -> None:
    for digest in digests:
        (env.folder / digest).write_bytes(HEADER.pack(24_000, 100) + bytes(400))
    env.voices.set_voices(frozenset(digests))


@pytest.mark.fault(6)
@pytest.mark.parametrize("rate", [8000, 11_025], ids=["kills", "breaks the device"])
async def test_voice_that_crashes_two_workers_does_not_stop_the_next(
    env: BackendEnv, rate: int
) -> None:
    store_voices(env, "good", "bad")
    (env.folder / "bad").write_bytes(HEADER.pack(rate, 100) + bytes(400))
    worker = env.supervise("tests.support.engines:BrittleEngine")
    await wait_ready(worker)
    assert worker.restarts == 2
    assert env.voices.prepared("cpu.0") == {"good"}
    with pytest.raises(PoisonRequest):
        await read_all(env.submit("one", voice="bad"))
    assert worker.restarts == 4
    with pytest.raises(PoisonRequest):
        await read_all(env.submit("one", voice="bad"))
    await wait_ready(worker)
    assert worker.restarts == 4
    assert await read_all(env.submit("one", voice="good"))


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
@pytest.mark.fault(87)
async def test_lack_of_threads_or_memory_delays_a_start(
    env: BackendEnv, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*args: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.ThreadedChildWatcher, "add_child_handler", refuse)
        worker = env.supervise()
        await until(lambda: worker.restarts == 1, 0.01)
    assert worker.last_error == f"no process can be started: {error}"
    await wait_ready(worker)


async def test_worker_that_never_gets_ready_is_replaced(env: BackendEnv) -> None:
    worker = env.supervise("test_engines:NeverWarm", start_s=0.3)
    await until(lambda: worker.restarts == 1, 0.01)
    assert worker.last_error == "the worker was not ready after 0.3 s"


@pytest.mark.fault(83)
async def test_many_voices_do_not_delay_readiness_and_jobs_wait_for_their_own_only(
    env: BackendEnv,
) -> None:
    """They take 10 s; those before the worker is ready longer than a worker may stand still."""
    digests = [f"voice {number}" for number in range(100)]
    store_voices(env, *digests)
    worker = env.supervise("test_engines:SlowVoices", start_s=4)
    await wait_ready(worker)
    assert 5 < len(env.voices.prepared("cpu.0")) < 50
    waiting = next(iter({*digests} - env.voices.prepared("cpu.0")))
    assert await read_all(env.submit("audio1", voice=waiting))
    assert len(env.voices.prepared("cpu.0")) < 50
    assert worker.restarts == 0


@pytest.mark.fault(91)
async def test_worker_starts_though_the_folder_of_the_sockets_was_removed(env: BackendEnv) -> None:
    worker = env.supervise()
    first = await wait_ready(worker)
    shutil.rmtree(env.folder)
    os.kill(first, signal.SIGKILL)
    await wait_ready(worker, after=first)
    assert await read_all(env.submit("audio1"))


# --- a job or a voice that hangs ------------------------------------------------------------------


@pytest.mark.fault(82)
async def test_job_that_hangs_among_moving_ones_is_found_and_alone_to_blame(
    env: BackendEnv, caplog: pytest.LogCaptureFixture
) -> None:
    worker = env.supervise("test_engines:SlowVoices", stall_s=0.5)
    first = await wait_ready(worker)
    moving = env.submit("sleep0.1 " * 25 + "audio1")
    hanging = env.submit("sleep600 audio1")
    with pytest.raises(WorkerStalled):
        await read_all(hanging)
    assert not moving.ended
    assert "made no step for 0.5 s; its stack follows" in caplog.text
    assert await read_all(moving)
    assert worker.restarts == 1
    assert worker.pid != first


@pytest.mark.fault(81)
async def test_voice_that_hangs_stops_neither_the_start_nor_other_voices(env: BackendEnv) -> None:
    store_voices(env, "hangs", "good")
    (env.folder / "hangs").write_bytes(HEADER.pack(8000, 100) + bytes(400))
    worker = env.supervise("test_engines:SlowVoices", stall_s=0.5)
    await wait_ready(worker)
    assert worker.restarts == 2  # it is no longer prepared in advance
    assert env.voices.prepared("cpu.0") == {"good"}
    moving = env.submit("sleep0.1 " * 15 + "audio1")
    with pytest.raises(WorkerStalled):
        await read_all(env.submit("audio1", voice="hangs"))
    assert await read_all(moving)
    assert await read_all(env.submit("audio1", voice="good"))


@pytest.mark.fault(84)
async def test_process_that_cannot_be_killed_is_replaced_and_not_waited_for(
    env: BackendEnv, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is stopped, and signals have no effect."""
    worker = env.supervise("test_engines:SlowVoices", stall_s=0.5)
    first = await wait_ready(worker)
    os.kill(first, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(process_module, "KILL_TIMEOUT_S", 0.2)
        patch.setattr(os, "killpg", lambda pid, number: None)
        stream = env.submit("audio3")
        assert await read_all(stream) == expected_pcm("audio3", PLAIN.seed)
        assert worker.pid != first
        assert f"process {first} cannot be killed" in caplog.text
        async with asyncio.timeout(3):
            await env.backend.stop_workers()
    assert psutil.Process(first).status() == psutil.STATUS_STOPPED
    os.kill(first, signal.SIGKILL)
    await until(lambda: not psutil.pid_exists(first))  # reaped


@pytest.mark.fault(88)
async def test_processes_of_a_dead_worker_end_with_it(
    env: BackendEnv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    worker = env.supervise("test_engines:HasHelper")
    first = await wait_ready(worker)
    helper = psutil.Process(int((tmp_path / "helper").read_text()))
    os.kill(first, signal.SIGKILL)
    await until(lambda: not helper.is_running() or helper.status() == psutil.STATUS_ZOMBIE)


# --- the end --------------------------------------------------------------------------------------


async def test_idle_worker_exits_by_itself(env: BackendEnv) -> None:
    worker = env.supervise()
    pid = await wait_ready(worker)
    await env.backend.stop_workers()
    assert worker.state == "stopped"
    assert worker.restarts == 0
    assert not psutil.pid_exists(pid)


async def test_busy_worker_is_killed(env: BackendEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "EXIT_TIMEOUT_S", 0.2)
    worker = env.supervise()
    pid = await wait_ready(worker)
    stream = env.submit("sleep600 one")
    await until(lambda: worker.busy == 1, 0.01)
    env.backend.abort()
    await env.backend.stop_workers()
    assert stream.ended
    assert not psutil.pid_exists(pid)


# --- idle models --------------------------------------------------------------------------------


async def test_idle_model_is_unloaded_and_comes_back_for_a_job(env: BackendEnv) -> None:
    worker = env.supervise("test_engines:RunsAway", idle_s=0.2)
    first = await wait_ready(worker)
    await until(lambda: worker.state == "idle" and worker.pid is None, 0.01)
    assert not psutil.pid_exists(first)
    assert env.backend.status().state == "ready"
    env.backend.ensure_ready()
    assert [model.name for model in env.backend.models] == ["scripted"]
    for _ in range(2):
        assert await read_all(env.submit("audio3")) == expected_pcm("audio3", PLAIN.seed)
    assert (worker.state, worker.restarts, worker.last_error) == ("ready", 0, None)
    await until(lambda: worker.state == "idle" and worker.pid is None, 0.01)
    await env.backend.stop_workers()
    assert worker.state == "stopped"


async def test_model_with_a_job_is_not_idle(env: BackendEnv) -> None:
    worker = env.supervise(idle_s=0.2)
    pid = await wait_ready(worker)
    stream = env.submit("sleep0.6 audio3")
    assert await read_all(stream) == expected_pcm("audio3", PLAIN.seed)
    assert worker.pid == pid


async def test_job_waits_for_an_unloaded_model_longer_than_the_queues_limit(
    env: BackendEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = env.supervise(idle_s=0.2)
    await wait_ready(worker)
    await until(lambda: worker.state == "idle", 0.01)
    limits = replace(env.backend._dispatcher._limits, queue_timeout_s=0.05)
    monkeypatch.setattr(env.backend._dispatcher, "_limits", limits)
    assert await read_all(env.submit("audio3")) == expected_pcm("audio3", PLAIN.seed)


@pytest.mark.heavy
async def test_model_that_cannot_come_back_refuses_its_jobs(env: BackendEnv) -> None:
    worker = env.supervise("test_engines:NeedsFile", idle_s=0.2)
    (env.folder / "model").touch()
    await wait_ready(worker)
    await until(lambda: worker.state == "idle", 0.01)
    (env.folder / "model").unlink()
    stream = env.submit("audio3")
    with pytest.raises(NotReady, match="no worker can be started"):
        await read_all(stream)
    assert worker.state == "failed"
    with pytest.raises(NotReady):
        env.backend.ensure_ready()
