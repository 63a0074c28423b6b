"""The voices a worker has prepared, by digest. Follows the backend's `Voices` broadcast."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Set
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from time import monotonic

from app.audio.sandbox import load_decoded, prepared_path
from app.core import progress
from app.core.audio import Samples
from app.core.errors import DeviceFailed, PoisonRequest, StorageUnavailable, UnusableAudio
from app.core.progress import Progress
from app.engines.base import Engine, Voice, prepare_voice
from app.ipc.messages import (
    PreparingVoice,
    VoiceDropped,
    VoiceFailed,
    VoicePrepared,
    VoiceReport,
    Voices,
)

log = logging.getLogger(__name__)

RESTORE_S = 10.0
"""How long a job waits for lost audio of its voice to be decoded again."""


class VoiceCache:
    """Prepares each voice once, one at a time, those that jobs wait for first.

    `report` is called before and after each preparation. If the device fails during one,
    `on_device_failure` is called instead, and the backend blames the voice. `steps` counts
    preparations, successful or not; `under_way` is the current one.
    """

    def __init__(self, engine: Engine, folder: Path, report: Callable[[VoiceReport], None]) -> None:
        self._engine = engine
        self._folder = folder
        self._report = report
        self._voices: dict[str, asyncio.Future[Voice]] = {}  # listed ones, prepared or queued
        self._queue: dict[str, asyncio.Future[Voice]] = {}  # in the order of preparation
        self._requested: dict[str, None] = {}  # those in the queue that jobs wait for
        self._preparing: asyncio.Task[None] | None = None  # runs while there is a queue
        self._failed: set[str] = set()  # prepared again only if a job needs it
        self._crashed: Set[str] = frozenset()  # voices that crashed workers: only on demand
        self._fault: DeviceFailed | None = None
        self._synced = asyncio.Event()  # replaced at each `sync`
        self._held = False
        self._wake = asyncio.Event()
        self.steps = 0
        self.under_way: tuple[str, Progress] | None = None
        self.on_device_failure: Callable[[str, DeviceFailed], None] = lambda digest, fault: None

    def sync(self, voices: Voices) -> None:
        """Begin to prepare new voices, drop those not listed."""
        digests, self._crashed = voices.digests, voices.crashed
        self._failed &= digests
        for digest in self._voices.keys() - digests:
            if self._voices.pop(digest).done():  # else `_finish` finds that it is not listed
                self._report(VoiceDropped(digest))
        for digest in digests - self._voices.keys() - self._failed:
            self._begin(digest)
        self._synced.set()
        self._synced = asyncio.Event()

    async def wait_idle(self, timeout_s: float | None = None) -> None:
        """Return when each listed voice is prepared or has failed, at the latest in time."""
        if self._preparing:
            await asyncio.wait([self._preparing], timeout=timeout_s)

    async def get(self, digest: str | None) -> Voice:
        """The voice, prepared now if need be; None is the default one. Raises what that raises."""
        if digest is None:
            return self._engine.default_voice
        deadline = monotonic() + RESTORE_S
        while True:
            synced = self._synced
            try:
                return await self._request(digest)
            except StorageUnavailable:  # its decoded audio is gone
                if monotonic() > deadline:
                    raise
            with suppress(TimeoutError):
                await asyncio.wait_for(synced.wait(), deadline - monotonic())

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Inside, voices are prepared only if jobs need them. For one job at a time."""
        self._held = True
        try:
            if self.under_way:
                await asyncio.wait([self._queue[self.under_way[0]]])
            yield
        finally:
            self._held = False
            self._wake.set()

    async def _request(self, digest: str) -> Voice:
        future = self._voices.get(digest) or self._begin(digest)
        if not future.done():
            self._requested[digest] = None
            self._wake.set()
        return await asyncio.shield(future)

    def _begin(self, digest: str) -> "asyncio.Future[Voice]":
        future = self._queue.get(digest) or asyncio.get_running_loop().create_future()
        self._voices[digest] = self._queue[digest] = future
        if self._preparing is None:
            self._preparing = asyncio.create_task(self._prepare_queue(), name="prepare voices")
        return future

    async def _prepare_queue(self) -> None:
        while self._queue:
            while self._held and not self._requested:
                self._wake.clear()
                await self._wake.wait()
            digest = next(iter(self._requested or self._queue))
            future = self._queue[digest]
            if self._voices.get(digest) is future or digest in self._requested:
                await self._prepare_into(future, digest)
            else:
                future.cancel()  # deleted while it waited
            del self._queue[digest]
            self._requested.pop(digest, None)
        self._preparing = None

    async def _prepare_into(self, future: "asyncio.Future[Voice]", digest: str) -> None:
        self.under_way = (digest, Progress())
        progress.current.set(self.under_way[1])
        try:
            future.set_result(await self._prepare(digest))
        except Exception as error:  # noqa: BLE001 - raised in the jobs that wait for the voice
            future.set_exception(error)
        self.under_way = None
        self.steps += 1
        self._finish(digest, future)

    async def _prepare(self, digest: str) -> Voice:
        if self._fault:
            raise self._fault  # the device failed during another voice's preparation
        if digest in self._crashed and digest not in self._requested:
            raise PoisonRequest("workers died preparing this voice")
        began = monotonic()
        self._report(PreparingVoice(digest))
        try:
            samples, rate = await asyncio.to_thread(self._load, digest)
            kept = prepared_path(self._folder / digest)
            voice = await prepare_voice(self._engine, samples, rate, kept)
        except DeviceFailed as fault:
            self._fault = fault
            log.error("voice %s cannot be prepared", digest[:8], exc_info=fault)
            self.on_device_failure(digest, fault)
            raise
        except Exception:
            self._report(VoiceFailed(digest))
            raise
        self._report(VoicePrepared(digest))
        level = logging.INFO if self._engine.clones_voices else logging.DEBUG
        log.log(level, "voice %s prepared after %.3f s", digest[:8], monotonic() - began)
        return voice

    def _load(self, digest: str) -> tuple[Samples, int]:
        try:
            return load_decoded(self._folder / digest)
        except OSError:
            raise StorageUnavailable("The voice's audio is being decoded again.") from None

    def _finish(self, digest: str, future: "asyncio.Future[Voice]") -> None:
        listed = self._voices.get(digest) is future
        error = future.exception()
        if error is None:
            if not listed:
                self._report(VoiceDropped(digest))
            return
        if listed:
            del self._voices[digest]
        match error:
            case StorageUnavailable():
                log.info("voice %s: its decoded audio is gone", digest[:8])
                return  # if it is decoded again it is listed again
            case PoisonRequest():
                log.error("voice %s crashed workers; it is prepared only on demand", digest[:8])
            case DeviceFailed():
                pass
            case UnusableAudio():  # by this model, which needs more of it than others
                log.warning("voice %s cannot be prepared: %s", digest[:8], error.message)
            case _:
                log.error("voice %s cannot be prepared", digest[:8], exc_info=error)
        self._failed.add(digest)
