"""The voices a worker has prepared, by digest. Follows the backend's `Voices` broadcast."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Set
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

from app.audio.sandbox import load_decoded
from app.core.errors import DeviceFailed, PoisonRequest
from app.engines.base import Engine, Voice
from app.ipc.messages import (
    PreparingVoice,
    VoiceDropped,
    VoiceFailed,
    VoicePrepared,
    VoiceReport,
    Voices,
)

log = logging.getLogger(__name__)


class VoiceCache:
    """Prepares each voice once, one at a time, those that jobs wait for first.

    `report` is called before and after each preparation. If the device fails during one,
    `on_device_failure` is called instead, and the backend blames the voice. `steps` counts
    preparations, successful or not, for the heartbeat.
    """

    def __init__(self, engine: Engine, folder: Path, report: Callable[[VoiceReport], None]) -> None:
        self._engine = engine
        self._folder = folder
        self._report = report
        self._voices: dict[str, asyncio.Task[Voice]] = {}
        self._failed: set[str] = set()  # prepared again only if a job needs it
        self._crashed: Set[str] = frozenset()  # voices that crashed workers: only on demand
        self._requested: set[str] = set()  # by jobs, and not prepared yet
        self._exclusive = asyncio.Condition()
        self._fault: DeviceFailed | None = None
        self.steps = 0
        self.on_device_failure: Callable[[str, DeviceFailed], None] = lambda digest, fault: None

    def sync(self, voices: Voices) -> None:
        """Begin to prepare new voices, drop those not listed."""
        digests, self._crashed = voices.digests, voices.crashed
        self._failed &= digests
        for digest in self._voices.keys() - digests:
            if self._voices.pop(digest).done():  # else `_on_done` finds that it is not listed
                self._report(VoiceDropped(digest))
        for digest in digests - self._voices.keys() - self._failed:
            self._begin(digest)

    async def wait_idle(self) -> None:
        """Return when each listed voice is prepared or has failed."""
        if self._voices:
            await asyncio.wait(self._voices.values())

    async def get(self, digest: str | None) -> Voice:
        """The voice, prepared now if need be; None is the default one. Raises what that raises."""
        if digest is None:
            return self._engine.default_voice
        task = self._voices.get(digest) or self._begin(digest)
        if not task.done():
            self._requested.add(digest)
        return await asyncio.shield(task)

    def _begin(self, digest: str) -> asyncio.Task[Voice]:
        task = asyncio.create_task(self._prepare(digest), name=f"voice {digest[:8]}")
        self._voices[digest] = task
        task.add_done_callback(lambda task: self._on_done(digest, task))
        return task

    async def _prepare(self, digest: str) -> Voice:
        async with self._exclusive_slot(digest):
            if self._fault:
                raise self._fault  # the device failed during another voice's preparation
            if digest in self._crashed and digest not in self._requested:
                raise PoisonRequest("workers died preparing this voice")
            began = monotonic()
            self._report(PreparingVoice(digest))
            try:
                samples, rate = await asyncio.to_thread(load_decoded, self._folder / digest)
                voice = await self._engine.prepare_voice(samples, rate)
            except DeviceFailed as fault:
                self._fault = fault
                raise
            except Exception:
                self._report(VoiceFailed(digest))
                raise
            self._report(VoicePrepared(digest))
            level = logging.INFO if self._engine.clones_voices else logging.DEBUG
            log.log(level, "voice %s prepared after %.3f s", digest[:8], monotonic() - began)
            return voice

    @asynccontextmanager
    async def _exclusive_slot(self, digest: str) -> AsyncIterator[None]:
        """Wait for exclusive use of the engine's preparation; voices that jobs await go first."""
        async with self._exclusive:
            await self._exclusive.wait_for(lambda: digest in self._requested or not self._requested)
            try:
                yield
            finally:
                self.steps += 1
                self._requested.discard(digest)
                self._exclusive.notify_all()

    def _on_done(self, digest: str, task: asyncio.Task[Voice]) -> None:
        if task.cancelled():
            return
        listed = self._voices.get(digest) is task
        error = task.exception()
        if error is None:
            if not listed:
                self._report(VoiceDropped(digest))
            return
        if listed:
            del self._voices[digest]
        match error:
            case FileNotFoundError():
                log.info("voice %s was deleted before it was prepared", digest[:8])
                return
            case PoisonRequest():
                log.error("voice %s crashed workers; it is prepared only on demand", digest[:8])
            case _:
                log.error("voice %s cannot be prepared", digest[:8], exc_info=error)
        self._failed.add(digest)
        if isinstance(error, DeviceFailed):
            self.on_device_failure(digest, error)
