"""Scans the voice folders: finds new and changed files, decodes them, and retries failures.

The folders are polled because a network volume does not report changes made by others. What takes
longer the more voices there are is done on the file thread.
"""

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from app.audio.sandbox import DecoderKilled, open_media
from app.core.blocking_thread import BlockingThread
from app.core.errors import InvalidRequest, ServiceError, StartupError, StorageFull
from app.core.retry_budget import RetryBudget
from app.core.unicode import nfc
from app.voices.decoded_audio import DecodedAudio
from app.voices.folder import Signature, VoiceFolder, digest_of, is_unchanged
from app.voices.names import validate_voice_id
from app.voices.snapshot import FileVersion, VoiceSnapshot, stem_of

log = logging.getLogger(__name__)

MAX_VOICES = 20_000
"""Further files, in the order of their names, are ignored."""

_READ_RETRY_S = 5.0
"""The time after which an unreadable file is tried again: permissions and disks get repaired."""

_DECODER_RETRY_S = 60.0
_MAX_DECODER_KILLS = 3

_PARALLEL_READS = 4
_PUBLISH_S = 3.0
"""The time after which the voices that were found so far are published, during a long scan."""


class ReadFailure(NamedTuple):
    """A version of a file that could not be read, to be retried at `retry_at` (`monotonic`)."""

    signature: Signature
    retry_at: float


class VoiceScanner:
    """Keeps `versions` (by path) and `snapshot`, in line with the folders.

    Later folders hide earlier ones, and the last one takes uploads. `changing` is held while
    folders and `versions` change together. `on_change` gets every new snapshot's digests by id.
    """

    def __init__(
        self,
        folders: tuple[VoiceFolder, ...],
        decoded: DecodedAudio,
        thread: BlockingThread,
        on_change: Callable[[dict[str, str]], None],
    ) -> None:
        self.snapshot = VoiceSnapshot()
        self.versions: dict[str, FileVersion] = {}
        self.failures: dict[str, ReadFailure] = {}
        self.changing = asyncio.Lock()
        self._folders = folders
        self._decoded = decoded
        self._thread = thread
        self._on_change = on_change
        self._decoder_kills = RetryBudget[str](_MAX_DECODER_KILLS)
        self._readable: bool | None = None  # None before the first scan
        self._unread: OrderedDict[str, Signature] = OrderedDict()
        self._unread_names: dict[str, str] = {}  # paths by id and stem, during the first scan
        self._changed = False  # `versions` differs from `snapshot`
        self._publish_at = 0.0
        self._too_many = False
        self._scanning = asyncio.Lock()

    async def check(self) -> None:
        """Raises StartupError if a folder cannot be read."""
        try:
            await self._thread.run(self._list)
        except OSError as error:
            self._on_unreadable(error)

    async def scan(self) -> None:
        """Index new and changed files, and those whose decoded audio has vanished.

        Raises StartupError if a folder cannot be read the first time; later that is logged.
        """
        async with self._scanning:
            try:
                first = self._readable is None
                if first:
                    await self._thread.run(self._folders[-1].discard_stale)
                async with self.changing:
                    await self._decoded.scan()
                    found, unread = await self._thread.run(self._compare)
                    if not unread:
                        await self._publish(found)
                if unread:
                    await self._index_all(unread, first)
                    async with self.changing:
                        await self.refresh()
                await self._decoded.remove_unneeded()
            except OSError as error:
                self._on_unreadable(error)
            else:
                self._readable = True

    async def refresh(self) -> None:
        """Forget files that are gone and update `snapshot`; `changing` is held. Raises OSError."""
        await self._publish(await self._thread.run(self._list))

    def is_unread(self, name: str) -> bool:
        """Return True, and read it next, if the first scan has yet to publish this voice.

        `name`: an id or a stem.
        """
        path = self._unread_names.get(name)
        if path is None:
            return False
        if path in self._unread:
            self._unread.move_to_end(path, last=False)
        version = self.versions.get(path)
        return version is None or version.digest is not None

    def add_version(self, path: str, version: FileVersion) -> None:
        """Set what a file is; `changing` is held, and `refresh` is to follow."""
        self.versions[path] = version
        self._changed = True
        if version.digest:
            self._decoded.add_use(version.digest)

    # --- on the file thread -----------------------------------------------------------------------

    def _list(self) -> dict[str, Signature]:
        found: dict[str, Signature] = {}
        for folder in self._folders:
            found |= folder.files()
        if (too_many := len(found) > MAX_VOICES) and not self._too_many:
            log.error("there are %d voices; %d are used", len(found), MAX_VOICES)
        self._too_many = too_many
        return dict(islice(sorted(found.items()), MAX_VOICES)) if too_many else found

    def _compare(self) -> tuple[dict[str, Signature], dict[str, Signature]]:
        """Return all files, and those to be read."""
        found = self._list()
        unread = {
            path: signature
            for path, signature in found.items()
            if self._needs_indexing(path, signature)
        }
        return found, unread

    def _needs_indexing(self, path: str, signature: Signature) -> bool:
        version = self.versions.get(path)
        if version and version.signature == signature:
            return version.digest is not None and not self._decoded.has(version.digest)
        failure = self.failures.get(path)
        if failure is None or failure.signature != signature:
            return True
        return failure.retry_at <= monotonic()

    def _take_snapshot(self, gone: set[str]) -> VoiceSnapshot:
        for path in gone:
            self.versions.pop(path, None)
        return VoiceSnapshot.of(self.versions.items(), str(self._folders[-1].path))

    # --- on the event loop ------------------------------------------------------------------------

    async def _publish(self, found: dict[str, Signature]) -> None:
        for path in [path for path, failure in self.failures.items() if path not in found]:
            self._forget_failure(path)
        gone = await self._thread.run(lambda: self.versions.keys() - found.keys())
        self._changed = self._changed or bool(gone)
        if not self._changed:
            return
        self.snapshot = await self._thread.run(self._take_snapshot, gone)
        self._changed = False  # not earlier: the wait may be cancelled
        dropped = self._decoded.keep(self.snapshot.digests_in_use)
        self._on_change(self.snapshot.digests)  # even if only decoded audio has come back
        await self._decoded.remove(dropped)

    async def _index_all(self, unread: dict[str, Signature], first: bool) -> None:
        """Index files, some at a time; publish in between what was found so far. Raises OSError."""
        self._unread = OrderedDict(unread)
        if first:
            names = {path: nfc(os.path.basename(path)) for path in unread}
            self._unread_names = {stem_of(name): path for path, name in names.items()}
            self._unread_names |= {name: path for path, name in names.items()}
        self._publish_at = monotonic() + _PUBLISH_S
        try:
            async with asyncio.TaskGroup() as group:
                readers = [group.create_task(self._index_next()) for _ in range(_PARALLEL_READS)]
        finally:
            self._unread.clear()
            self._unread_names.clear()
        for error in filter(None, (reader.result() for reader in readers)):
            raise error

    async def _index_next(self) -> OSError | None:
        """Index one file after the other; return an error that concerns all of them."""
        try:
            while self._unread:
                path, signature = self._unread.popitem(last=False)
                await self._index(path, signature)
                if monotonic() >= self._publish_at:
                    self._publish_at = monotonic() + _PUBLISH_S
                    async with self.changing:
                        await self.refresh()
        except OSError as error:
            self._unread.clear()
            return error
        return None

    async def _index(self, path: str, signature: Signature) -> None:
        """Read and decode a file, or note why not. Raises OSError if the folder does not answer."""
        if (failure := self.failures.get(path)) and failure.signature != signature:
            self._forget_failure(path)
        try:
            validate_voice_id(os.path.basename(path))
            digest = await self._thread.run(digest_of, path)
            with self._decoded.pinned(digest):
                if not self._decoded.has(digest):
                    with await self._thread.run(open_media, Path(path)) as media:
                        await self._decoded.decode(media, digest)
                await self._record(path, FileVersion(signature, digest))
        except DecoderKilled as error:
            self._decoder_kills.record(path)
            if self._decoder_kills.exhausted(path):
                await self._ignore(path, signature, error)
            else:
                self._retry_later(path, signature, error, _DECODER_RETRY_S)
        except InvalidRequest as error:  # with which an upload of it would be answered
            await self._ignore(path, signature, error)
        except StorageFull as error:
            self._retry_later(path, signature, error, _DECODER_RETRY_S)
        except OSError as error:
            self._retry_later(path, signature, error, _READ_RETRY_S)

    def _retry_later(
        self, path: str, signature: Signature, error: Exception, delay_s: float
    ) -> None:
        if path not in self.failures:
            log.warning("%a cannot be read now: %s", path, error)
        self.failures[path] = ReadFailure(signature, monotonic() + delay_s)

    async def _ignore(self, path: str, signature: Signature, error: ServiceError) -> None:
        log.warning("%a is ignored: %s", path, error.message)
        await self._record(path, FileVersion(signature, None))

    async def _record(self, path: str, version: FileVersion) -> None:
        async with self.changing:
            # If the file changed while it was read, the next scan finds a new signature.
            if await self._thread.run(is_unchanged, path, version.signature):
                self.add_version(path, version)
                self._forget_failure(path)

    def _forget_failure(self, path: str) -> None:
        self.failures.pop(path, None)
        self._decoder_kills.clear(path)

    def _on_unreadable(self, error: OSError) -> None:
        message = f"The voices folder {error.filename} cannot be read: {error.strerror}."
        if self._readable is None and not isinstance(error, TimeoutError):
            raise StartupError(message) from error
        if self._readable is not False:
            log.error("%s The voices found before stay.", message)
        self._readable = False
