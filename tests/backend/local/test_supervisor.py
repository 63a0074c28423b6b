"""Real worker processes with the scripted engine; only the pauses are shorter than in life."""

import asyncio
import logging
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
import zmq

import app.backend.local.process as process_module
import app.backend.local.supervisor as supervisor_module
from app.backend.local.dispatcher import Dispatcher, Limits
from app.backend.local.job_stream import JobStream, Restarted
from app.backend.local.supervisor import Policy, Pulse, Seat, Supervisor
from app.core.devices import CPU
from app.core.engine_config import EngineConfig, QueueSizes
from app.core.errors import NotReady, PoisonRequest, WorkerLost, WorkerStalled
from app.ipc.channels import Broadcaster, broadcast_address
from app.ipc.messages import Heartbeat, Voices, WorkerConfig
from app.observability.metrics import Metrics
from tests.ipc.test_messages import PARAMS
from tests.support.engines import expected_pcm
from tests.support.service import ROOT, SCRIPTED
from tests.support.waiting import PATIENCE_S, until

PLAIN = msgspec.structs.replace(PARAMS, crossfade_duration_milliseconds=0)

FUSSY = """
import asyncio
from pathlib import Path
from app.core.errors import StartupError
from tests.support.engines import ScriptedEngine

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
"""


class House:
    """A supervisor with what it needs around it; `supervise` fills its one seat."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.voices: set[str] = set()
        self.context: zmq.Context[Any] = zmq.Context()
        self.broadcaster = Broadcaster(self.context, broadcast_address(folder))
        limits = Limits(queued=10, queue_timeout_s=60, ahead_samples=10**9, client_stall_s=600)
        self.dispatcher = Dispatcher(limits, self.broadcaster.send, Metrics())
        self.supervisor = self._new_supervisor(Policy(slots=2, start_s=60, stall_s=60))
        self.repeating = asyncio.create_task(self._repeat_state())

    def _new_supervisor(self, policy: Policy) -> Supervisor:
        return Supervisor(
            self.context,
            self.dispatcher,
            self.broadcaster.send,
            policy,
            lambda work, name: asyncio.create_task(work, name=name),
        )

    def supervise(
        self, engine: str = SCRIPTED, *, start_s: float = 60, stall_s: float = 60
    ) -> Seat:
        """Fill a seat with this engine."""
        self.supervisor = self._new_supervisor(Policy(2, start_s, stall_s))
        config = WorkerConfig(
            name="cpu.0",
            incarnation=0,
            engine=engine,
            engine_config=EngineConfig("cpu", 1, str(self.folder / "model")),
            queues=QueueSizes(2, 3),
            channels=str(self.folder),
            voices=str(self.folder),
            log_level="INFO",
        )
        self.supervisor.start(config, CPU)
        return self.supervisor.seats[0]

    def submit(self, text: str) -> JobStream:
        return self.dispatcher.submit("r", text, None, PLAIN)

    async def _repeat_state(self) -> None:
        while True:
            self.broadcaster.send(Voices(frozenset(self.voices)))
            self.dispatcher.tick()
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        await self.supervisor.stop()
        self.repeating.cancel()
        self.broadcaster.close()
        self.context.destroy(linger=0)


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(supervisor_module, "LONGEST_BACK_OFF_S", 0.01)
    monkeypatch.setattr(supervisor_module, "WATCH_INTERVAL_S", 0.05)
    monkeypatch.setattr(process_module, "STACK_DUMP_S", 0.5)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "fussy.py").write_text(FUSSY)
        monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{folder}")
        house = House(Path(folder))
        yield house
        await house.close()


async def ready(seat: Seat, *, after: int | None = None) -> int:
    """The process id once a worker, another than `after`, is ready."""
    await until(lambda: seat.state == "ready" and seat.pid not in (None, after), 0.01)
    assert seat.pid
    return seat.pid


async def heard(stream: JobStream) -> bytes:
    """All of it, of the last attempt."""
    pieces = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            while (pcm := await stream.read()) is not None:
                pieces.append(pcm)
    except Restarted:
        return await heard(stream)
    stream.close()
    return b"".join(pieces)


# --- a life ---------------------------------------------------------------------------------------


async def test_a_ready_worker_is_given_jobs(house: House) -> None:
    seat = house.supervise()
    assert seat.state == "starting"
    await ready(seat)
    assert house.supervisor.ready
    assert house.supervisor.ready.model == "scripted"
    assert await heard(house.submit("audio3 one")) == expected_pcm("audio3 one", PLAIN.seed)


async def test_nothing_is_accepted_before_the_first_worker_is_ready(house: House) -> None:
    seat = house.supervise()
    with pytest.raises(NotReady):
        house.submit("one")
    await ready(seat)
    assert await heard(house.submit("one"))


async def test_while_a_worker_restarts_requests_wait(house: House) -> None:
    seat = house.supervise()
    first = await ready(seat)
    os.kill(first, signal.SIGKILL)
    await until(lambda: seat.state == "restarting", 0.01)
    stream = house.submit("audio3")
    assert await heard(stream) == expected_pcm("audio3", PLAIN.seed)
    assert seat.pid != first
    assert seat.last_error == "the worker was killed by signal 9 (Killed)"


async def test_a_job_whose_worker_is_killed_is_done_by_the_next(house: House) -> None:
    seat = house.supervise()
    first = await ready(seat)
    stream = house.submit("sleep0.5 audio3")
    await until(lambda: seat.busy == 1, 0.01)
    os.kill(first, signal.SIGKILL)
    assert await heard(stream) == expected_pcm("audio3", PLAIN.seed)


async def test_a_count_goes_on_where_a_dead_worker_left_it(house: House) -> None:
    seat = house.supervise("fussy:RunsAway")
    first = await ready(seat)
    await until(lambda: seat.runaways == 3, 0.01)
    os.kill(first, signal.SIGKILL)
    await ready(seat, after=first)
    await until(lambda: seat.runaways == 6, 0.01)


@pytest.mark.fault(6)
async def test_a_job_that_kills_its_workers_is_poison(house: House) -> None:
    seat = house.supervise()
    await ready(seat)
    with pytest.raises(PoisonRequest):
        await heard(house.submit("die"))
    assert seat.restarts == 2
    assert await heard(house.submit("one"))


# --- a worker that cannot start -------------------------------------------------------------------


@pytest.mark.fault(5)
async def test_five_deaths_open_the_circuit_until_a_try_succeeds(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor_module, "CIRCUIT_RETRY_S", 0.5)
    seat = house.supervise("fussy:NeedsFile")
    await until(lambda: seat.state == "failed", 0.01)
    assert seat.restarts == 5
    assert seat.last_error == f"{house.folder / 'model'} is missing"
    assert "circuit open" in caplog.text
    with pytest.raises(NotReady):
        house.submit("one")
    (house.folder / "model").touch()
    await ready(seat)
    assert await heard(house.submit("one"))


@pytest.mark.fault(5)
async def test_a_finished_job_forgives_the_deaths_before(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "CIRCUIT_OPENS_AT", 2)
    seat = house.supervise()
    pid = None
    for _ in range(3):
        pid = await ready(seat, after=pid)
        assert await heard(house.submit("one"))
        os.kill(pid, signal.SIGKILL)
    await ready(seat, after=pid)
    assert seat.restarts == 3


@pytest.mark.fault(4)
async def test_pauses_double_until_the_circuit_opens(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "LONGEST_BACK_OFF_S", 32)
    monkeypatch.setattr(supervisor_module, "LAST_WORDS_S", 0.1)
    seat = house.supervise()
    pauses = [seat._count_death(WorkerLost("it died")) for _ in range(7)]
    assert pauses == [1, 2, 4, 8, 60, 60, 60]


async def test_a_machine_that_starts_no_process_is_one_that_may_recover(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(house.folder / "no-python"))
        seat = house.supervise()
        await until(lambda: seat.restarts > 0, 0.01)
        assert "no process can be started" in str(seat.last_error)
    await ready(seat)


# --- a worker that hangs --------------------------------------------------------------------------


@pytest.mark.fault(7)
async def test_a_worker_that_hangs_shows_its_stack_and_is_replaced(
    house: House, capfd: pytest.CaptureFixture[str]
) -> None:
    seat = house.supervise(stall_s=3)
    first = await ready(seat)
    with pytest.raises(WorkerStalled):
        await heard(house.submit("block"))
    assert await ready(seat, after=first)
    stack = capfd.readouterr().err
    assert "most recent call first" in stack
    assert "engines.py" in stack
    assert await heard(house.submit("one"))


async def test_a_voice_that_a_worker_prepares_is_a_step(house: House) -> None:
    for voice in "abc":
        (house.folder / voice).write_bytes(np.array([24_000], np.uint32).tobytes() + bytes(400))
        house.voices.add(voice)
    seat = house.supervise()
    await ready(seat)
    await until(lambda: seat._pulse._steps == 3, 0.01)


async def test_a_worker_that_never_gets_ready_is_replaced(house: House) -> None:
    seat = house.supervise("fussy:NeverWarm", start_s=0.3)
    await until(lambda: seat.restarts == 1, 0.01)
    assert seat.last_error == "the worker was not ready after 0.3 s"


class TestPulse:
    """Since when a worker has been silent, by a clock that is set by hand."""

    @pytest.fixture(autouse=True)
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(supervisor_module, "monotonic", lambda: self.now)
        self.pulse = Pulse()

    def beat(self, at: float, steps: int, working: int) -> None:
        self.now = at
        self.pulse.beat(Heartbeat(steps, working))

    def test_a_worker_that_moves_is_not_silent(self) -> None:
        for second in range(101, 110):
            self.beat(second, steps=second, working=1)
        assert self.pulse.silent_s() == 0

    def test_a_worker_with_nothing_to_do_is_not_silent(self) -> None:
        for second in range(101, 110):
            self.beat(second, steps=5, working=0)
        assert self.pulse.silent_s() == 0

    def test_a_busy_worker_that_makes_no_step_is_silent(self) -> None:
        for second in range(101, 110):
            self.beat(second, steps=5, working=1)
        assert self.pulse.silent_s() == 8

    def test_a_worker_without_a_heartbeat_is_silent(self) -> None:
        self.beat(101, steps=5, working=0)
        self.now = 107
        assert self.pulse.silent_s() == 6


# --- the end --------------------------------------------------------------------------------------


async def test_an_idle_worker_leaves_by_itself(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    seat = house.supervise()
    pid = await ready(seat)
    await house.supervisor.stop()
    assert seat.state == "stopped"
    assert seat.restarts == 0
    assert not psutil.pid_exists(pid)


async def test_without_a_seat_there_is_nothing_to_end(house: House) -> None:
    await house.supervisor.stop()


async def test_a_busy_worker_is_ended(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "LAST_WORDS_S", 0.2)
    seat = house.supervise()
    pid = await ready(seat)
    stream = house.submit("sleep600 one")
    await until(lambda: seat.busy == 1, 0.01)
    house.dispatcher.abort()
    await house.supervisor.stop()
    assert stream.ended
    assert not psutil.pid_exists(pid)
