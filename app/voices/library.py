"""The voices: clients name them by id, workers by digest (SHA-256 of the audio file).

The folders hold the truth; they may be shared with other masters or changed by hand. Routes call
`add`, `delete` and `find` and read `snapshot`; jobs `pin` and `unpin`; `on_change` informs workers.
"""

import asyncio
import errno
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4
from weakref import WeakValueDictionary

from app.audio.decode_limits import DecodeLimits
from app.audio.sandbox import open_media
from app.core.blocking_thread import BlockingThread
from app.core.errors import (
    NotReady,
    PreloadedVoice,
    ServiceError,
    StorageFull,
    StorageUnavailable,
    VoiceNotFound,
)
from app.core.unicode import nfc
from app.core.validation import shortened
from app.voices.decoded_audio import DecodedAudio
from app.voices.folder import CURES, VoiceFolder, signature_of
from app.voices.names import MAX_NAME_LENGTH, casefold_key, renamed, validate_voice_id
from app.voices.open_voice import OpenVoice
from app.voices.scanner import MAX_VOICES, VoiceScanner
from app.voices.snapshot import FileVersion, VoiceSnapshot
from app.voices.suggestions import describe_voices
from app.voices.upload_slots import UploadSlots

log = logging.getLogger(__name__)

RECORDING = DecodeLimits(kept_s=DecodeLimits.max_s, kept_rate=16_000)
"""All of a recording to convert is kept, at the rate of Chatterbox's speech tokenizer."""

MAX_OPERATION_S = 30.0
"""A folder that has not answered by then (a network volume without its server) has failed."""


class VoiceLibrary:
    """Owns the user's voices, the preloaded ones, and the private `decoded_dir`.

    The folders are used on one thread only, so operations on them are ordered. `on_change` is
    called on the event loop with the digests of every new snapshot, by id. Routes occupy one of
    `upload_slots` during an upload.
    """

    def __init__(
        self,
        user_dir: Path,
        preloaded_dir: Path,
        decoded_dir: Path,
        max_upload_bytes: int,
        max_decoded_mb: int = 10_240,
    ) -> None:
        self.on_change: Callable[[dict[str, str]], None] = lambda digests: None
        self._user = VoiceFolder(user_dir)
        self._preloaded = VoiceFolder(preloaded_dir)
        self._max_upload_bytes = max_upload_bytes
        self._uploading: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._thread = BlockingThread("voice files", str(user_dir), MAX_OPERATION_S)
        self.upload_slots = UploadSlots()
        self.decoded = DecodedAudio(decoded_dir, max_decoded_mb)
        self.scanner = VoiceScanner(
            (self._preloaded, self._user),
            self.decoded,
            self._thread,
            lambda digests: self.on_change(digests),
        )

    @property
    def snapshot(self) -> VoiceSnapshot:
        """The voices of both folders; a user's voice hides a preloaded one of the same id.

        A voice is preloaded if only the preloaded folder has it; such voices cannot be deleted.
        """
        return self.scanner.snapshot

    def find(self, name: str) -> str | None:
        """The id that equals `name`, or the only id that equals it without its ending."""
        return self.snapshot.find(name)

    def ensure_read(self, name: str) -> None:
        """Raise NotReady if the first scan has not read the voice of this id or stem yet."""
        if len(name) <= MAX_NAME_LENGTH and self.scanner.is_unread(nfc(name)):
            raise NotReady(f"the voice {name!r} is still being read", param="voice_id")

    def not_found(self, voice_id: str, alias: str | None = None) -> VoiceNotFound:
        """The error for a missing voice, with suggestions. `alias`: the name in the request."""
        message = f"There is no voice {shortened(voice_id)!r}"
        if alias is not None:
            message += f", which {alias!r} stands for"
        known = describe_voices(nfc(voice_id[:MAX_NAME_LENGTH]), self.snapshot.ids)
        return VoiceNotFound(f"{message}. {known}", param="voice_id")

    def pin(self, voice_id: str) -> str:
        """The digest of a voice; its decoded audio stays until `unpin`.

        Raises VoiceNotFound, NotReady.
        """
        digest = self.snapshot.digests[self._existing(voice_id)]
        self.decoded.pin(digest)
        return digest

    def unpin(self, digest: str) -> None:
        self.decoded.unpin(digest)

    async def add(self, voice_id: str, content: BinaryIO, *, replace: bool) -> None:
        """Make `content` a voice of the user: complete, decodable and on disk, or not at all.

        Raises InvalidVoiceId, VoiceExists (unless `replace`; also for an id that differs in case
        only), PayloadTooLarge, UnusableAudio, StorageFull, StorageUnavailable.
        """
        voice_id = validate_voice_id(voice_id)
        if len(self.snapshot.ids) >= MAX_VOICES and voice_id not in self.snapshot.digests:
            raise StorageFull(f"There are {MAX_VOICES:,} voices already, as many as are allowed.")
        temp = self._user.new_temp()
        async with self._lock_of(voice_id):
            try:
                with _storage_errors():
                    if not replace:
                        await self._thread.run(self._user.ensure_free, voice_id)
                    digest = await self._thread.run(
                        self._user.receive, content, temp, self._max_upload_bytes
                    )
                    with self.decoded.pinned(digest):
                        with await self._thread.run(open_media, temp) as media:
                            await self.decoded.decode(media, digest)
                        await self._publish(temp, voice_id, digest, replace)
            finally:
                with suppress(TimeoutError):  # the folder hangs
                    await self._thread.run(self._user.discard, temp)
        log.info("voice %s added", voice_id)

    async def add_recording(self, media: BinaryIO) -> str:
        """Decode speech to convert; the name of the decoded file, which stays until `unpin`.

        Raises UnusableAudio, StorageFull, StorageUnavailable.
        """
        name = f"recording-{uuid4().hex}"
        self.decoded.pin(name)
        try:
            with _storage_errors():
                await self.decoded.decode(media, name, RECORDING)
        except BaseException:
            self.decoded.unpin(name)
            raise
        return name

    async def open(self, voice_id: str) -> OpenVoice:
        """Open the recording of a voice, as it was uploaded.

        Raises VoiceNotFound, NotReady, StorageUnavailable.
        """
        voice_id = self._existing(voice_id)
        with _storage_errors():
            for folder in (self._user, self._preloaded):
                file = await self._thread.run(folder.open, voice_id)
                if file is not None:
                    return OpenVoice(file, self._thread)
        raise self.not_found(voice_id)

    async def delete(self, voice_id: str) -> str:
        """Remove a voice of the user; returns its id.

        Raises VoiceNotFound, PreloadedVoice, StorageUnavailable.
        """
        voice_id = self._existing(voice_id)
        with _storage_errors():
            async with self.scanner.changing:
                removed = await self._thread.run(self._user.remove, voice_id)
                await self.scanner.refresh()
        if not removed:
            raise self._unchangeable(voice_id, "deleted")
        log.info("voice %s deleted", voice_id)
        return voice_id

    async def rename(self, voice_id: str, new_id: str) -> tuple[str, str]:
        """Rename a voice of the user; returns its old and its new id.

        The file keeps its ending. Raises VoiceNotFound, VoiceExists, InvalidVoiceId,
        PreloadedVoice, StorageUnavailable.
        """
        with _storage_errors():
            async with self.scanner.changing:
                voice_id = self._existing(voice_id)
                new_id = renamed(voice_id, new_id, param="voice_id")
                digest = self.snapshot.digests[voice_id]
                moved = await self._thread.run(self._user.rename, voice_id, new_id)
                if moved:
                    path = os.path.join(self._user.path, new_id)
                    signature = await self._thread.run(signature_of, path)
                    self.scanner.add_version(path, FileVersion(signature, digest))
                await self.scanner.refresh()
        if not moved:
            raise self._unchangeable(voice_id, "renamed")
        log.info("voice %s renamed to %s", voice_id, new_id)
        return voice_id, new_id

    async def check(self) -> None:
        """Raises StartupError if a folder cannot be read. To be called at start only."""
        await self.scanner.check()

    async def scan(self) -> None:
        """Read changes in the folders. Raises StartupError if the first scan cannot read them."""
        await self.scanner.scan()

    async def watch(self, interval_s: float) -> None:
        while True:
            await asyncio.sleep(interval_s)
            await self.scan()

    async def log_folders(self) -> None:
        """Log the number of voices in each folder and the folders' problems, after a scan."""
        versions = self.scanner.versions.items()
        counts = Counter(os.path.dirname(path) for path, version in versions if version.digest)
        folders = (self._user, self._preloaded)
        found = (f"{counts[str(folder.path)]} in {folder.path.absolute()}" for folder in folders)
        log.info("voices: %s", ", ".join(found))
        with suppress(TimeoutError):  # a folder hangs, as the scan has logged
            for folder in folders:
                problem = await self._thread.run(folder.problem, written=folder is self._user)
                if problem:
                    setting = "VOICES_DIR" if folder is self._user else "PRELOADED_VOICES_DIR"
                    log.warning(
                        "the voices folder %s %s: %s, or set %s to another",
                        *(folder.path.absolute(), problem, CURES[problem], setting),
                    )

    def close(self) -> None:
        self._thread.close()
        self.decoded.close()

    async def _publish(self, temp: Path, voice_id: str, digest: str, replace: bool) -> None:
        move = self._user.replace if replace else self._user.create_exclusive
        async with self.scanner.changing:
            signature = await self._thread.run(signature_of, temp)  # moving does not change it
            await self._thread.run(move, temp, voice_id)
            path = os.path.join(self._user.path, voice_id)
            self.scanner.add_version(path, FileVersion(signature, digest))
            await self.scanner.refresh()

    def _unchangeable(self, voice_id: str, change: str) -> ServiceError:
        """The error for a voice that is no file of the user's."""
        if voice_id in self.snapshot.digests:
            return PreloadedVoice(
                f"A preloaded voice cannot be {change} here: it is a file in PRELOADED_VOICES_DIR.",
                param="voice_id",
            )
        return self.not_found(voice_id)

    def _existing(self, voice_id: str) -> str:
        """The id that `voice_id` is a form of. Raises VoiceNotFound, NotReady."""
        found = self.find(voice_id)
        if found is None:
            self.ensure_read(voice_id)
            raise self.not_found(voice_id)
        return found

    def _lock_of(self, voice_id: str) -> asyncio.Lock:
        return self._uploading.setdefault(casefold_key(voice_id), asyncio.Lock())


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("There is no space left for voices.") from error
        log.error("voices cannot be stored: %s", error)
        raise StorageUnavailable("Voices cannot be stored or removed at the moment.") from error
