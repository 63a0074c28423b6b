"""A worker process: configuration on standard input, jobs in, audio out, until its master goes.

Started by `master.process`. Standard input stays open as a lifeline: its end, like the parent's
death, ends the worker at once. Signals meant for the whole service are the master's business.
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

import msgspec
import zmq.asyncio

from app.core.errors import StartupError
from app.core.log import set_up_logging
from app.core.native import kill_with_parent
from app.engines.base import Engine
from app.engines.registry import load_engine
from app.ipc.channels import (
    BroadcastReceiver,
    JobReceiver,
    ResultSender,
    broadcast_address,
    jobs_address,
    results_address,
)
from app.ipc.messages import (
    Credit,
    Drain,
    Heartbeat,
    LiveJobs,
    Synthesize,
    Voices,
    WorkerConfig,
    WorkerFailed,
    WorkerReady,
    WorkerStarting,
)
from app.pipeline.pipeline import Pipeline
from app.worker.job_runner import Jobs
from app.worker.voice_cache import PreparedVoices

log = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
LAST_WORDS_MS = 2000


def main() -> None:
    _leave_signals_to_the_master()
    kill_with_parent()
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=WorkerConfig)
    threading.Thread(target=_watch_lifeline, name="lifeline", daemon=True).start()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    set_up_logging(config.log_level, config.name)
    sys.exit(asyncio.run(_live(config)))


async def _live(config: WorkerConfig) -> int:
    """Load, say so, work until drained; the exit code."""
    context = zmq.asyncio.Context()
    channels = Path(config.channels)
    results = ResultSender(context, results_address(channels, config.incarnation))
    broadcast = BroadcastReceiver(context, broadcast_address(channels))
    jobs = JobReceiver(context, jobs_address(channels, config.incarnation))
    try:
        await results.send(WorkerStarting("loads the model"))
        engine = load_engine(config.engine, config.engine_config)
        await results.send(WorkerStarting("compiles" if engine.compiled else "warms up"))
        await engine.warm_up()
        await results.send(WorkerStarting("prepares the voices"))
        if failure := await _work(config, engine, jobs, broadcast, results):
            await results.send(failure)
            return 1
        await engine.close()
    except StartupError as error:
        await results.send(WorkerFailed(str(error)))
        return 1
    except Exception as error:  # the boundary of the process: its master is to know why
        log.exception("the worker ends")
        await results.send(WorkerFailed(f"{type(error).__name__}: {error}"))
        return 1
    finally:
        jobs.close()
        broadcast.close()
        results.close(LAST_WORDS_MS)
        context.term()
    return 0


async def _work(
    config: WorkerConfig,
    engine: Engine,
    incoming: JobReceiver,
    broadcast: BroadcastReceiver,
    results: ResultSender,
) -> WorkerFailed | None:
    """Until drained: None. If the process must be replaced before that: its last message."""
    pipeline = Pipeline(engine, config.queues, config.engine_config.threads)
    voices = PreparedVoices(engine, Path(config.voices))
    jobs = Jobs(engine, pipeline, voices, results.send)
    voices_known = asyncio.Event()
    drained = asyncio.Event()

    async def until_drained() -> None:
        await drained.wait()
        await jobs.finish()

    async def take_jobs() -> None:
        while True:
            match await incoming.receive():
                case Synthesize() as job:
                    jobs.start(job)
                case Credit() as credit:
                    jobs.credit(credit)

    async def follow_broadcast() -> None:
        while True:
            match await broadcast.receive():
                case LiveJobs() as live:
                    jobs.keep(live)
                case Voices(digests):
                    voices.follow(digests)
                    voices_known.set()
                case Drain():
                    drained.set()

    async def beat() -> None:
        while True:
            steps = pipeline.steps + voices.steps
            await results.send(Heartbeat(steps, jobs.working, engine.runaways))
            await asyncio.sleep(HEARTBEAT_S)

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(job()) for job in (take_jobs, follow_broadcast, beat)]
        await voices_known.wait()
        await voices.settled()
        if not jobs.unfit.done():
            await results.send(
                WorkerReady(
                    model=engine.name,
                    clones_voices=engine.clones_voices,
                    compiled=engine.compiled,
                    notice=engine.notice,
                )
            )
            log.debug("ready")
        leaving = tasks.create_task(until_drained())
        either: set[asyncio.Future[Any]] = {leaving, jobs.unfit}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        for task in (*running, leaving):
            task.cancel()
    pipeline.close()
    return jobs.unfit.result() if jobs.unfit.done() else None


def _leave_signals_to_the_master() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _watch_lifeline() -> None:
    """The master never writes again: whatever ends this read, the master is gone."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(0)
