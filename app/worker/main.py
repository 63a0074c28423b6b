"""A worker process: reads its configuration, then turns jobs into audio until it is drained.

Started by `backend.local.process`, with the control socket as its standard input. The end of that
socket, like the parent's death, ends the worker at once; Ctrl-C and SIGTERM are ignored.
"""

import asyncio
import faulthandler
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import zmq.asyncio

from app.core.errors import StartupError
from app.core.log import set_up_logging
from app.core.model import ModelInfo
from app.core.native import kill_with_parent
from app.engines.base import Engine
from app.engines.registry import load_engine
from app.ipc import channels, messages
from app.ipc.control import ReportSender
from app.pipeline.pipeline import Pipeline
from app.worker.job_runner import JobRunner
from app.worker.stall_detector import StallDetector
from app.worker.voice_cache import VoiceCache

log = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
PREPARE_BEFORE_READY_S = 5.0
"""After this time, the worker is ready and prepares the other voices beside its jobs."""
LINGER_MS = 2000


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    kill_with_parent()
    reports = ReportSender(sys.stdin.fileno())
    config = reports.read_config()
    threading.Thread(
        target=_exit_with_backend, args=(reports,), name="exit with backend", daemon=True
    ).start()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    set_up_logging(config.log_level, config.name)
    sys.exit(asyncio.run(_run(config, reports)))


async def _run(config: messages.WorkerConfig, reports: ReportSender) -> int:
    """Load the engine, work until drained, return the exit code."""
    context = zmq.asyncio.Context()
    folder = Path(config.channels_dir)
    results = channels.ResultSender(context, channels.results_address(folder, config.incarnation))
    broadcast = channels.BroadcastReceiver(context, channels.broadcast_address(folder))
    jobs = channels.JobReceiver(context, channels.jobs_address(folder, config.incarnation))
    try:
        await results.send(messages.WorkerStarting("loads the model"))
        engine = load_engine(config.engine, config.engine_config)
        session = _Session(config, engine, results, reports)
        await results.send(messages.WorkerStarting("compiles" if engine.compiled else "warms up"))
        await engine.warm_up()
        await results.send(messages.WorkerStarting("prepares the voices"))
        if failure := await session.run(jobs, broadcast):
            await results.send(failure)
            return 1
        await engine.close()
    except StartupError as error:
        await results.send(messages.WorkerFailed(str(error)))
        return 1
    except Exception as error:  # the backend shows the reason
        log.exception("the worker ends")
        await results.send(messages.WorkerFailed(f"{type(error).__name__}: {error}"))
        return 1
    finally:
        jobs.close()
        broadcast.close()
        results.close(LINGER_MS)
        context.term()
    return 0


class _Session:
    """The tasks of a worker whose engine is loaded."""

    def __init__(
        self,
        config: messages.WorkerConfig,
        engine: Engine,
        results: channels.ResultSender,
        reports: ReportSender,
    ) -> None:
        self._engine = engine
        self._results = results
        self._report = reports.send
        self._pipeline = Pipeline(engine, config.queues, config.engine_config.threads)
        self._voices = VoiceCache(engine, Path(config.voices_dir), reports.send)
        self._jobs = JobRunner(engine, self._pipeline, self._voices, results.send, reports.send)
        self._voices_version = 0
        self._voices_received = asyncio.Event()
        self._draining = asyncio.Event()
        self._stalls = StallDetector()
        self._beating = asyncio.create_task(self._send_heartbeats())

    async def run(
        self, jobs: channels.JobReceiver, broadcast: channels.BroadcastReceiver
    ) -> messages.WorkerFailed | None:
        """Work until drained; return the last message if the process must be replaced first."""
        restart_request = self._jobs.restart_request
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self._take_jobs(jobs)),
                tasks.create_task(self._receive_broadcasts(broadcast)),
            ]
            self._report(messages.VoicesKnown(self._voices_version))
            await self._voices_received.wait()
            await self._voices.wait_idle(PREPARE_BEFORE_READY_S)
            if not restart_request.done():
                await self._results.send(messages.WorkerReady(ModelInfo.of(self._engine)))
                log.debug("ready")
            drained = tasks.create_task(self._drain())
            either: set[asyncio.Future[Any]] = {drained, restart_request}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            for task in (*running, drained, self._beating):
                task.cancel()
        self._pipeline.close()
        return restart_request.result() if restart_request.done() else None

    async def _take_jobs(self, incoming: channels.JobReceiver) -> None:
        while True:
            match await incoming.receive():
                case messages.Synthesize() as job:
                    self._jobs.start(job)
                case messages.Credit() as credit:
                    self._jobs.grant(credit)
                case messages.Preempt() as message:
                    self._jobs.preempt(message)

    async def _receive_broadcasts(self, broadcast: channels.BroadcastReceiver) -> None:
        while True:
            match await broadcast.receive():
                case messages.ActiveJobs() as active:
                    self._jobs.cancel_missing(active)
                case messages.Voices() as voices:
                    self._report(messages.VoicesKnown(voices.version))
                    if voices.version != self._voices_version:
                        self._voices_version = voices.version
                        self._voices.sync(voices)
                    self._voices_received.set()
                case messages.Drain():
                    self._draining.set()

    async def _send_heartbeats(self) -> None:
        while True:
            beats, work = self._stalls.beat(self._jobs.under_way)
            await self._results.send(
                messages.Heartbeat(
                    self._pipeline.steps + self._voices.steps,
                    beats * HEARTBEAT_S,
                    work.job,
                    work.voice,
                    self._engine.runaways,
                )
            )
            await asyncio.sleep(HEARTBEAT_S)

    async def _drain(self) -> None:
        await self._draining.wait()
        await self._jobs.wait_idle()


def _exit_with_backend(reports: ReportSender) -> None:
    reports.wait_closed()
    os._exit(0)
