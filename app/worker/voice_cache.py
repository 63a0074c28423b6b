"""The voices a worker has prepared, by digest. Follows the master's `Voices` broadcast."""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Set
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from time import monotonic

import psutil

from app.audio.sandbox import load_decoded
from app.core.errors import DeviceFailed, PoisonRequest
from app.engines.base import Engine, Voice

log = logging.getLogger(__name__)

MOST_DEATHS = 2
"""So many workers that died while they prepared a voice, and no other tries it unasked."""


class PreparedVoices:
    """Prepares each voice once, one after the other; a job holds the value it was given.

    Those that jobs wait for come first. `steps` counts what was tried, for the heartbeat.
    `on_device_failure` is told whose digest broke the device. A process that does not survive a
    voice leaves a mark beside it, for those that come after it.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine = engine
        self._folder = folder
        self._prepared: dict[str, asyncio.Task[Voice]] = {}
        self._unfit: set[str] = set()  # failed once: only tried again for a job that wants it
        self._fatal: set[str] = set()  # that a worker has died of
        self._awaited: set[str] = set()  # by jobs, and not prepared yet
        self._one_at_a_time = asyncio.Condition()
        self.steps = 0
        self._fault: DeviceFailed | None = None
        self.on_device_failure: Callable[[str, DeviceFailed], None] = lambda digest, fault: None

    def follow(self, digests: Set[str]) -> None:
        """Begin to prepare what is new, drop what is gone."""
        self._unfit &= digests
        new = digests - self._prepared.keys() - self._unfit
        marks = self._marks_of_the_dead() if new else {}
        self._fatal |= marks.keys()
        for digest in new:
            if len(marks.get(digest, ())) < MOST_DEATHS:
                self._begin(digest)
            else:
                self._unfit.add(digest)
                log.error("voice %s waits for a job: workers died preparing it", digest[:8])
        for digest in self._prepared.keys() - digests:
            del self._prepared[digest]

    async def settled(self) -> None:
        """Returns when all voices followed now are prepared, or have been found not to be fit."""
        if self._prepared:
            await asyncio.wait(self._prepared.values())

    async def get(self, digest: str | None) -> Voice:
        """The voice; None is the engine's own. One that was dropped meanwhile is prepared anew.

        Raises what preparing it raises, and `PoisonRequest` when as many again died for jobs.
        """
        if digest is None:
            return self._engine.default_voice
        if digest in self._fatal and digest not in self._prepared:
            self._refuse_if_jobs_died_of_it(digest)
        task = self._prepared.get(digest) or self._begin(digest)
        if not task.done():
            self._awaited.add(digest)
        return await asyncio.shield(task)

    def _begin(self, digest: str) -> asyncio.Task[Voice]:
        task = asyncio.create_task(self._prepare(digest), name=f"voice {digest[:8]}")
        self._prepared[digest] = task
        task.add_done_callback(lambda task: self._report(digest, task))
        return task

    async def _prepare(self, digest: str) -> Voice:
        async with self._turn(digest):
            if self._fault:
                raise self._fault  # of another voice: this one gets no mark
            began = monotonic()
            with self._marked(digest):
                samples, rate = await asyncio.to_thread(load_decoded, self._folder / digest)
                voice = await self._engine.prepare_voice(samples, rate)
            if digest in self._fatal:
                self._forgive(digest)
            level = logging.INFO if self._engine.clones_voices else logging.DEBUG
            log.log(level, "voice %s prepared after %.3f s", digest[:8], monotonic() - began)
            return voice

    @contextmanager
    def _marked(self, digest: str) -> Iterator[None]:
        """The mark stays if this process ends inside, or can only end after it."""
        mark = self._folder / f"{digest}.{os.getpid()}"
        with suppress(OSError):  # a full disk, say: the voice can be read all the same
            mark.touch()
        try:
            yield
        finally:
            fault = sys.exception()
            if isinstance(fault, DeviceFailed):
                self._fault = fault
            else:
                mark.unlink(missing_ok=True)

    def _marks_of_the_dead(self) -> dict[str, list[Path]]:
        """By digest."""
        marks: dict[str, list[Path]] = {}
        names = os.listdir(self._folder) if self._folder.exists() else ()
        for name in names:
            digest, _, pid = name.partition(".")
            if digest and pid.isdecimal() and not psutil.pid_exists(int(pid)):
                marks.setdefault(digest, []).append(self._folder / name)
        return marks

    def _refuse_if_jobs_died_of_it(self, digest: str) -> None:
        if len(self._marks_of_the_dead().get(digest, ())) >= 2 * MOST_DEATHS:
            raise PoisonRequest("the workers that prepared this voice died of it")

    def _forgive(self, digest: str) -> None:
        self._fatal.discard(digest)
        for mark in self._marks_of_the_dead().get(digest, ()):
            mark.unlink(missing_ok=True)

    @asynccontextmanager
    async def _turn(self, digest: str) -> AsyncIterator[None]:
        """Inside, no other voice is prepared; one that no job waits for lets the others pass."""
        async with self._one_at_a_time:
            await self._one_at_a_time.wait_for(lambda: digest in self._awaited or not self._awaited)
            try:
                yield
            finally:
                self.steps += 1
                self._awaited.discard(digest)
                self._one_at_a_time.notify_all()

    def _report(self, digest: str, task: asyncio.Task[Voice]) -> None:
        if task.cancelled() or not (error := task.exception()):
            return
        if self._prepared.get(digest) is task:
            del self._prepared[digest]
        if isinstance(error, FileNotFoundError):
            log.info("voice %s was deleted before it was prepared", digest[:8])
        else:
            self._unfit.add(digest)
            log.error("voice %s cannot be prepared", digest[:8], exc_info=error)
        if isinstance(error, DeviceFailed):
            self.on_device_failure(digest, error)
