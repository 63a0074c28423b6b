"""Scans the voice folders: finds new and changed files, decodes them, and retries failures.

The folders are polled because a network volume does not report changes made by others.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from app.audio.sandbox import DecoderKilled
from app.core.errors import InvalidRequest, ServiceError, StartupError, StorageFull
from app.core.retry_budget import RetryBudget
from app.voices.decoded_audio import DecodedAudio
from app.voices.folder import FileThread, Signature, VoiceFolder, digest_of, is_unchanged
from app.voices.names import nfc, validate_voice_id

log = logging.getLogger(__name__)

_READ_RETRY_S = 5.0
"""The time after which an unreadable file is tried again: permissions and disks get repaired."""

_DECODER_RETRY_S = 60.0
_MAX_DECODER_KILLS = 3


class FileVersion(NamedTuple):
    """A version of a file that was read; its digest is None if it cannot be a voice."""

    signature: Signature
    digest: str | None


class ReadFailure(NamedTuple):
    """A version of a file that could not be read, to be retried at `retry_at` (`monotonic`)."""

    signature: Signature
    retry_at: float


class VoiceScanner:
    """Keeps `versions` and `voices` (digests by id) in line with the folders.

    Later folders hide earlier ones, and the last one takes uploads. `changing` is held while
    folders and `versions` change together. `on_change` gets every new state of `voices`.
    """

    def __init__(
        self,
        folders: tuple[VoiceFolder, ...],
        decoded_dir: Path,
        thread: FileThread,
        on_change: Callable[[dict[str, str]], None],
    ) -> None:
        self.decoded = DecodedAudio(decoded_dir, self._digests_in_use)
        self.voices: dict[str, str] = {}
        self.versions: dict[Path, FileVersion] = {}
        self.failures: dict[Path, ReadFailure] = {}
        self.changing = asyncio.Lock()
        self._folders = folders
        self._thread = thread
        self._on_change = on_change
        self._decoder_kills = RetryBudget[Path](_MAX_DECODER_KILLS)
        self._readable: bool | None = None  # None before the first scan
        self._scanning = asyncio.Lock()

    def check(self) -> None:
        try:
            self._list()
        except OSError as error:
            self._on_unreadable(error)

    async def scan(self) -> None:
        """Index new and changed files.

        Raises StartupError if a folder cannot be read the first time; later that is logged.
        """
        async with self._scanning:
            try:
                if self._readable is None:
                    await self._thread.run(self._folders[-1].discard_stale)
                found = await self._thread.run(self._list)
                self._forget_failures_except(found)
                async with asyncio.TaskGroup() as group:
                    for path, signature in found.items():
                        if self._needs_indexing(path, signature):
                            group.create_task(self._index(path, signature))
                async with self.changing:
                    await self.refresh()
            except OSError as error:
                self._on_unreadable(error)
            else:
                self._readable = True

    async def refresh(self) -> None:
        """Forget files that are gone and update `voices`; `changing` is held. Raises OSError."""
        found = await self._thread.run(self._list)
        for path in self.versions.keys() - found.keys():
            del self.versions[path]
        before, self.voices = self.voices, self._current_voices()
        if self.voices != before:
            self._on_change(dict(self.voices))
        self.decoded.drop_unused()

    def _current_voices(self) -> dict[str, str]:
        # Later ones have precedence: the user's, and of two Unicode forms of a name the NFC one.
        uploads = self._folders[-1].path
        order = sorted(self.versions, key=lambda path: (path.parent == uploads, path.name))
        digests = ((path.name, self.versions[path].digest) for path in order)
        return {nfc(name): digest for name, digest in digests if digest}

    def _digests_in_use(self) -> set[str]:
        indexed = {version.digest for version in self.versions.values() if version.digest}
        return indexed | set(self.voices.values())

    def _list(self) -> dict[Path, Signature]:
        found: dict[Path, Signature] = {}
        for folder in self._folders:
            found |= folder.files()
        return found

    def _needs_indexing(self, path: Path, signature: Signature) -> bool:
        version, failure = self.versions.get(path), self.failures.get(path)
        if version and version.signature == signature:
            return False
        return failure is None or failure.retry_at <= monotonic()

    async def _index(self, path: Path, signature: Signature) -> None:
        try:
            validate_voice_id(path.name)
            digest = await self._thread.run(digest_of, path)
            with self.decoded.pinned(digest):
                await self.decoded.decode(path, digest)
                await self._record(path, FileVersion(signature, digest))
        except DecoderKilled as error:
            self._decoder_kills.record(path)
            if self._decoder_kills.exhausted(path):
                await self._ignore(path, signature, error)
            else:
                self._retry_later(path, signature, error, _DECODER_RETRY_S)
        except InvalidRequest as error:  # with which an upload of it would be answered
            await self._ignore(path, signature, error)
        except (OSError, StorageFull) as error:
            self._retry_later(path, signature, error, _READ_RETRY_S)

    def _retry_later(
        self, path: Path, signature: Signature, error: Exception, delay_s: float
    ) -> None:
        if path not in self.failures:
            log.warning("%a cannot be read now: %s", str(path), error)
        self.failures[path] = ReadFailure(signature, monotonic() + delay_s)

    async def _ignore(self, path: Path, signature: Signature, error: ServiceError) -> None:
        log.warning("%a is ignored: %s", str(path), error.message)
        await self._record(path, FileVersion(signature, None))

    async def _record(self, path: Path, version: FileVersion) -> None:
        async with self.changing:
            # If the file changed while it was read, the next scan finds a new signature.
            if await self._thread.run(is_unchanged, path, version.signature):
                self.versions[path] = version
                self._forget_failure(path)

    def _forget_failures_except(self, found: dict[Path, Signature]) -> None:
        for path, failure in list(self.failures.items()):
            if found.get(path) != failure.signature:
                self._forget_failure(path)

    def _forget_failure(self, path: Path) -> None:
        self.failures.pop(path, None)
        self._decoder_kills.clear(path)

    def _on_unreadable(self, error: OSError) -> None:
        message = f"The voices folder {error.filename} cannot be read: {error.strerror}."
        if self._readable is None:
            raise StartupError(message) from error
        if self._readable:
            log.error("%s The voices found before stay.", message)
        self._readable = False
