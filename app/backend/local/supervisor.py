"""The supervisor: keeps a live worker in every seat, and says when there is none.

A seat is one place for a worker on one device. Each has a task that reads as a life: start a
process, watch it, bury it, wait, again. Called by `master.master`; tells the dispatcher which
workers are there (`attach`, `detach`) and whether it makes sense to accept jobs (`accept`).
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import zmq

from app.backend.base import WorkerState
from app.backend.local.dispatcher import Dispatcher, Worker
from app.backend.local.process import WorkerProcess
from app.core.devices import Device
from app.core.errors import ServerFault, WorkerLost, WorkerStalled
from app.ipc.channels import JobSender, ResultReceiver, jobs_address, results_address
from app.ipc.messages import (
    Broadcast,
    Drain,
    Heartbeat,
    Result,
    WorkerConfig,
    WorkerFailed,
    WorkerReady,
    WorkerStarting,
)

log = logging.getLogger(__name__)

Own = Callable[[Coroutine[Any, Any, None], str], "asyncio.Task[None]"]
"""Makes a task of a coroutine; should it crash, the service does."""

STARTS = "starts"

LONGEST_BACK_OFF_S = 32.0
CIRCUIT_OPENS_AT = 5
CIRCUIT_RETRY_S = 60.0
WATCH_INTERVAL_S = 1.0
LAST_WORDS_S = 2.0


@dataclass(frozen=True)
class Policy:
    """Jobs a worker takes at a time; seconds it may take to get ready, and for a step of work."""

    slots: int
    start_s: float
    stall_s: float


class Supervisor:
    """All seats, on all devices."""

    def __init__(
        self,
        context: "zmq.Context[Any]",
        dispatcher: Dispatcher,
        broadcast: Callable[[Broadcast], None],
        policy: Policy,
        own: Own,
    ) -> None:
        self.context = context
        self.dispatcher = dispatcher
        self.policy = policy
        self.seats: list[Seat] = []
        self.one_dump_at_a_time = asyncio.Lock()  # else their lines would be mixed
        self._broadcast = broadcast
        self._own = own
        self._lives: list[asyncio.Task[None]] = []
        self._incarnations = 0

    def start(self, config: WorkerConfig, device: Device) -> None:
        """Fill one more seat; `config.incarnation` is set anew for each process."""
        seat = Seat(self, config, device)
        self.seats.append(seat)
        self._lives.append(self._own(seat.live(), f"seat {seat.id}"))

    async def stop(self) -> None:
        """Let idle workers leave by themselves, then end those that did not."""
        for seat in self.seats:
            seat.leaving = True
        self._broadcast(Drain())
        if self._lives:
            await asyncio.wait(self._lives, timeout=LAST_WORDS_S)
        for life in self._lives:
            life.cancel()
        await asyncio.gather(*self._lives, return_exceptions=True)

    @property
    def ready(self) -> WorkerReady | None:
        """What a ready worker said of itself, if there is one."""
        return next((seat.ready for seat in self.seats if seat.ready), None)

    def announce(self) -> None:
        """Tell the dispatcher whether a worker is ready, or was and will be again."""
        self.dispatcher.accept(any(seat.state in ("ready", "restarting") for seat in self.seats))

    def next_incarnation(self) -> int:
        self._incarnations += 1
        return self._incarnations


class Seat:
    """One place for a worker; its task is `live`."""

    def __init__(self, supervisor: Supervisor, config: WorkerConfig, device: Device) -> None:
        self.id = config.name
        self.device = device
        self.state: WorkerState = "starting"
        self.restarts = 0
        self.last_error: str | None = None
        self.runaways = 0  # of all its processes
        self.leaving = False
        self.ready: WorkerReady | None = None
        self.doing = STARTS  # unless it is ready
        self._supervisor = supervisor
        self._config = config
        self._was_ready = False
        self._runaways_before = 0  # the present process
        self._deaths_in_a_row = 0
        self._process: WorkerProcess | None = None
        self._worker = self._new_worker()
        self._pulse = Pulse()
        self._last_words: WorkerFailed | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def busy(self) -> int:
        return len(self._worker.jobs)

    async def live(self) -> None:
        """Start, watch, bury, wait; until the seat is left."""
        while True:
            reason = await self._one_life()
            if self.leaving:
                self._enter("stopped")
                return
            pause_s = self._count_death(reason)
            log.error("worker %s: %s; next start in %g s", self.id, reason.message, pause_s)
            await asyncio.sleep(pause_s)

    async def _one_life(self) -> ServerFault:
        """One process, from its start until all that it said has been heard; why it ended."""
        reason: ServerFault = WorkerLost("the service is ending")
        self._worker, self._pulse, self._last_words = self._new_worker(), Pulse(), None
        self._runaways_before = self.runaways
        self.doing = STARTS
        with ExitStack() as sockets:
            try:
                config, results = self._open_channels(sockets)
                self._process = await WorkerProcess.start(config, self.device)
                log.info("worker %s started on %s, pid %d", self.id, self.device.name, self.pid)
                death = await self._until_death(self._process)
                await self._hear_to_the_end(results)
                reason = WorkerLost(self._last_words.message) if self._last_words else death
            except (OSError, zmq.ZMQError) as fault:
                reason = WorkerLost(f"no process can be started: {fault}")
            finally:
                if self._process:
                    await self._process.kill()
                self._process = self.ready = None
                self._supervisor.dispatcher.detach(self._worker, reason, self._last_words)
        return reason

    def _open_channels(self, sockets: ExitStack) -> tuple[WorkerConfig, ResultReceiver]:
        """A new incarnation's sockets, closed with `sockets`, and what its process is to know."""
        incarnation = self._supervisor.next_incarnation()
        channels, context = Path(self._config.channels), self._supervisor.context
        jobs = JobSender(context, jobs_address(channels, incarnation))
        sockets.callback(jobs.close)
        self._worker = self._new_worker(jobs)
        results = ResultReceiver(context, results_address(channels, incarnation), self._hear)
        sockets.callback(results.close)
        return msgspec.structs.replace(self._config, incarnation=incarnation), results

    async def _until_death(self, process: WorkerProcess) -> ServerFault:
        exit_ = asyncio.create_task(process.exited())
        while not (await asyncio.wait([exit_], timeout=WATCH_INTERVAL_S))[0]:
            if stall := self._stall():
                async with self._supervisor.one_dump_at_a_time:
                    log.error("worker %s: %s; its stack follows", self.id, stall.message)
                    await process.kill_after_stack_dump()
                await exit_
                return stall
        return WorkerLost(f"the worker {exit_.result()}")

    async def _hear_to_the_end(self, results: ResultReceiver) -> None:
        try:
            await asyncio.wait_for(results.finish(), LAST_WORDS_S)
        except TimeoutError:
            log.warning("worker %s: its channel did not close when it died", self.id)

    def _hear(self, message: Result, pcm: bytes) -> None:
        match message:
            case Heartbeat():
                self._pulse.beat(message)
                self.runaways = self._runaways_before + message.runaways
            case WorkerStarting():
                self.doing = message.doing
            case WorkerReady():
                log.info("worker %s ready: %s", self.id, message.model)
                self.ready, self._was_ready = message, True
                self._pulse = Pulse()
                self._enter("ready")
                self._supervisor.dispatcher.attach(self._worker)
            case WorkerFailed():
                self._last_words = message
                if self._process:  # nothing follows, and what is broken may never end by itself
                    self._process.end()
            case _:
                self._supervisor.dispatcher.handle(self._worker, message, pcm)

    def _stall(self) -> WorkerStalled | None:
        policy, silent_s = self._supervisor.policy, self._pulse.silent_s()
        if self.ready and silent_s > policy.stall_s:
            return WorkerStalled(f"the worker made no step for {policy.stall_s:g} s")
        if not self.ready and self._pulse.age_s() > policy.start_s:
            return WorkerStalled(f"the worker was not ready after {policy.start_s:g} s")
        return None

    def _count_death(self, reason: ServerFault) -> float:
        """The pause before the next start, in seconds; opens the circuit after too many deaths."""
        self.restarts += 1
        self.last_error = reason.message
        self._deaths_in_a_row = 1 if self._worker.finished else self._deaths_in_a_row + 1
        if self._deaths_in_a_row >= CIRCUIT_OPENS_AT:
            self._enter("failed")
            return CIRCUIT_RETRY_S
        self._enter("restarting" if self._was_ready else "starting")
        return min(LONGEST_BACK_OFF_S, 2.0 ** (self._deaths_in_a_row - 1))

    def _enter(self, state: WorkerState) -> None:
        if state == "failed":
            log.critical("worker %s: circuit open, one try a minute", self.id)
        self.state = state
        self._supervisor.announce()

    def _new_worker(self, jobs: JobSender | None = None) -> Worker:
        send = jobs.send if jobs else lambda message: False
        return Worker(self.id, self._supervisor.policy.slots, send)


class Pulse:
    """The signs of life of one process."""

    def __init__(self) -> None:
        self._born_at = self._beat_at = self._step_at = monotonic()
        self._steps = -1

    def beat(self, heartbeat: Heartbeat) -> None:
        self._beat_at = monotonic()
        if heartbeat.steps != self._steps or not heartbeat.working:
            self._steps = heartbeat.steps
            self._step_at = self._beat_at

    def age_s(self) -> float:
        return monotonic() - self._born_at

    def silent_s(self) -> float:
        """Since when there was no heartbeat, or no step where one was due."""
        return monotonic() - min(self._beat_at, self._step_at)
