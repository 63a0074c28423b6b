"""A managed worker: keeps one worker process running on one device, unless it is idle.

One task per worker: start the process, wait for its exit, clean up, back off, restart. Messages
of the process go to the dispatcher (jobs) and the voice tracker (voices).
"""

import asyncio
import itertools
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import zmq

from app.backend.base import WorkerState
from app.backend.local.dispatcher import Dispatcher
from app.backend.local.heartbeat import HeartbeatMonitor
from app.backend.local.job import Worker
from app.backend.local.process import WorkerProcess
from app.backend.local.voice_tracker import VoiceTracker
from app.core.devices import Device
from app.core.errors import ServerFault, WorkerLost, WorkerStalled
from app.core.model import ModelInfo
from app.ipc.channels import JobSender, ResultReceiver, jobs_address, results_address
from app.ipc.messages import (
    Heartbeat,
    JobStarted,
    Report,
    Result,
    WorkerConfig,
    WorkerFailed,
    WorkerReady,
    WorkerStarting,
)
from app.settings import Settings

log = logging.getLogger(__name__)

STARTS = "starts"

CIRCUIT_OPENS_AT = 5
MAX_BACKOFF_S = 32.0
CIRCUIT_RETRY_S = 60.0
WATCH_INTERVAL_S = 1.0
DRAIN_RESULTS_S = 2.0


@dataclass(frozen=True)
class WorkerContext:
    """State shared by all managed workers of a backend."""

    context: "zmq.Context[Any]"
    dispatcher: Dispatcher
    voices: VoiceTracker
    settings: Settings
    on_state_change: Callable[[], None]
    incarnations: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    stack_dump: asyncio.Lock = field(default_factory=asyncio.Lock)  # one after the other


class ManagedWorker:
    """`config.incarnation` is replaced per process; `runaways` is the sum over all processes."""

    def __init__(self, config: WorkerConfig, device: Device, shared: WorkerContext) -> None:
        self.id = config.name
        self.device = device
        self.state: WorkerState = "starting"
        self.restarts = 0
        self.last_error: str | None = None
        self.runaways = 0
        self.stopping = False
        self.ready: ModelInfo | None = None
        self.startup_phase = STARTS
        self.heartbeat = HeartbeatMonitor()
        self._config = config
        self._shared = shared
        self._was_ready = False
        self._unloaded = False  # by `unload`; `_wanted` ends it
        self._wanted = asyncio.Event()
        self._deaths = 0  # in a row, without a finished job, not due to suspects
        self._runaways_before = 0  # of earlier processes
        self._process: WorkerProcess | None = None
        self._worker = self._new_worker()
        self._exit_report: WorkerFailed | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def slots(self) -> int:
        return self._config.engine_config.slots

    @property
    def busy(self) -> int:
        return len(self._worker.jobs)

    def unload(self) -> None:
        """End the process, which has no job, until `load`."""
        log.info("worker %s is unloaded, since its model is idle", self.id)
        self._unloaded = True
        self._wanted.clear()
        self._shared.dispatcher.detach(self._worker, WorkerLost("the worker is unloaded"))
        self._enter("idle")
        if self._process:
            self._process.send_signal(signal.SIGKILL)

    def load(self) -> None:
        """Start a process again after `unload`."""
        if self._unloaded and not self._wanted.is_set():
            self._wanted.set()
            self._enter("restarting")

    def stop(self) -> None:
        """Start no further process."""
        self.stopping = True
        self._wanted.set()

    async def run(self) -> None:
        """Run one process after the other, until `stopping`."""
        while True:
            reason = await self._run_once()
            if self._unloaded:
                await self._wanted.wait()
                self._unloaded = False
            elif not self.stopping:
                await self._back_off(reason)
            if self.stopping:
                self._enter("stopped")
                return

    async def _back_off(self, reason: ServerFault) -> None:
        pause_s = self._count_death(reason)
        log.error("worker %s: %s; next start in %g s", self.id, reason.message, pause_s)
        await asyncio.sleep(pause_s)

    async def _run_once(self) -> ServerFault:
        """Run one process until all its messages are handled; return why it ended."""
        reason: ServerFault = WorkerLost("the service is ending")
        self._worker, self.heartbeat = self._new_worker(), HeartbeatMonitor()
        self._exit_report = None
        self._runaways_before = self.runaways
        self.startup_phase = STARTS
        with ExitStack() as sockets:
            try:
                config, results = self._open_channels(sockets)
                self._process = await WorkerProcess.start(config, self.device, self._on_report)
                log.info("worker %s started on %s, pid %d", self.id, self.device.name, self.pid)
                reason = await self._wait_for_exit(self._process)
                if await self._process.kill():
                    self._process.drain_reports()
                    await self._drain_results(results)
                else:
                    log.error("worker %s: process %d cannot be killed", self.id, self.pid)
                if self._exit_report and not isinstance(reason, WorkerStalled):
                    reason = WorkerLost(self._exit_report.message)
            except (OSError, zmq.ZMQError) as error:
                reason = WorkerLost(f"no process can be started: {error}")
            finally:
                if self._process:
                    await self._process.close()
                self._process = self.ready = None
                self._shared.voices.worker_exited(self.id, self._exit_report)
                self._shared.dispatcher.detach(self._worker, reason, self._exit_report)
        return reason

    def _open_channels(self, sockets: ExitStack) -> tuple[WorkerConfig, ResultReceiver]:
        """Open the sockets of a new incarnation, to be closed with `sockets`."""
        incarnation = next(self._shared.incarnations)
        channels, context = Path(self._config.channels_dir), self._shared.context
        jobs = JobSender(context, jobs_address(channels, incarnation))
        sockets.callback(jobs.close)
        self._worker = self._new_worker(jobs)
        results = ResultReceiver(context, results_address(channels, incarnation), self._on_message)
        sockets.callback(results.close)
        return msgspec.structs.replace(self._config, incarnation=incarnation), results

    async def _wait_for_exit(self, process: WorkerProcess) -> ServerFault:
        """Return when the process has exited or is to be killed."""
        exit_ = asyncio.create_task(process.wait_exit())
        try:
            while not (await asyncio.wait([exit_], timeout=WATCH_INTERVAL_S))[0]:
                if self._exit_report:
                    return WorkerLost(self._exit_report.message)
                if stall := self._stall():
                    async with self._shared.stack_dump:
                        log.error("worker %s: %s; its stack follows", self.id, stall.message)
                        await process.dump_stacks()
                    return stall
            return WorkerLost(f"the worker {exit_.result()}")
        finally:
            exit_.cancel()

    async def _drain_results(self, results: ResultReceiver) -> None:
        try:
            await asyncio.wait_for(results.finish(), DRAIN_RESULTS_S)
        except TimeoutError:
            log.warning(
                "worker %s exited but its results connection stayed open; later messages are lost",
                self.id,
            )

    def _on_report(self, report: Report) -> None:
        match report:
            case JobStarted(job):
                self._shared.dispatcher.job_started(self._worker, job)
            case _:
                self._shared.voices.handle(self.id, report)

    def _on_message(self, message: Result, pcm: bytes) -> None:
        match message:
            case Heartbeat():
                self.heartbeat.beat(message)
                self.runaways = self._runaways_before + message.runaways
            case WorkerStarting(phase):
                self.startup_phase = phase
                self.heartbeat.progress()
            case WorkerReady(model):
                log.info("worker %s ready: %s", self.id, model.name)
                self.ready = model
                self._was_ready = True
                self.heartbeat.progress()
                self._enter("ready")
                self._shared.dispatcher.attach(self._worker)
            case WorkerFailed():
                self._exit_report = message
                if self._process:  # with a broken device it may never exit by itself
                    self._process.send_signal(signal.SIGKILL)
            case _:
                self._shared.dispatcher.handle(self._worker, message, pcm)

    def _stall(self) -> WorkerStalled | None:
        settings, heartbeat = self._shared.settings, self.heartbeat
        stall_s, start_s = settings.worker_stall_seconds, settings.worker_start_seconds
        if not self._shared.voices.known:
            heartbeat.progress()  # a worker is not ready before the backend knows the voices
        if heartbeat.latest.idle_s > stall_s:
            stall = WorkerStalled(f"the worker made no step for {stall_s:g} s")
            self._exit_report = WorkerFailed(
                stall.message, heartbeat.latest.job, heartbeat.latest.voice
            )
            return stall
        if self.ready and heartbeat.silent_for_s() > stall_s:
            return WorkerStalled(f"the worker sent no heartbeat for {stall_s:g} s")
        if not self.ready and heartbeat.no_progress_for_s() > start_s:
            return WorkerStalled(f"the worker was not ready after {start_s:g} s")
        return None

    def _count_death(self, reason: ServerFault) -> float:
        """Count an exit; return the seconds before the next start. Too many in a row: `failed`."""
        self.restarts += 1
        self.last_error = reason.message
        if self._worker.finished_jobs:
            self._deaths = 1
        elif not (self._deaths and self._worker.died_of_suspect):  # it counts as the first only
            self._deaths += 1
        if self._deaths >= CIRCUIT_OPENS_AT:
            self._enter("failed")
            return CIRCUIT_RETRY_S
        self._enter("restarting" if self._was_ready else "starting")
        return min(MAX_BACKOFF_S, 2.0 ** (self._deaths - 1))

    def _enter(self, state: WorkerState) -> None:
        if state == "failed":
            log.critical("worker %s: circuit open, one try a minute", self.id)
        self.state = state
        self._shared.on_state_change()

    def _new_worker(self, jobs: JobSender | None = None) -> Worker:
        send = jobs.send if jobs else lambda message: False
        return Worker(self.id, self.slots, send)
