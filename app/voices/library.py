"""The voices: clients name them by id, workers by digest (SHA-256 of the audio file).

The folders hold the truth; they may be shared with other masters or changed by hand. Routes call
`add`, `delete`, `ids` and `find`, jobs `pin` and `unpin`; `on_change` informs the workers.
"""

import asyncio
import errno
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from weakref import WeakValueDictionary

from app.core.errors import PreloadedVoice, StorageFull, StorageUnavailable, VoiceNotFound
from app.voices.folder import FileThread, VoiceFolder, signature_of
from app.voices.names import MAX_ID_LENGTH, casefold_key, nfc, validate_voice_id
from app.voices.scanner import FileVersion, VoiceScanner

log = logging.getLogger(__name__)


class VoiceLibrary:
    """Owns the user's voices, the preloaded ones, and the (existing, private) `decoded_dir`.

    The folders are used on one thread only, so operations on them are ordered. `on_change` is
    called on the event loop with every new snapshot.
    """

    def __init__(
        self, user_dir: Path, preloaded_dir: Path, decoded_dir: Path, max_upload_bytes: int
    ) -> None:
        self.on_change: Callable[[dict[str, str]], None] = lambda snapshot: None
        self._user = VoiceFolder(user_dir)
        self._preloaded = VoiceFolder(preloaded_dir)
        self._max_upload_bytes = max_upload_bytes
        self._uploading: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._thread = FileThread()
        self.scanner = VoiceScanner(
            (self._preloaded, self._user),
            decoded_dir,
            self._thread,
            lambda voices: self.on_change(voices),
        )
        self.decoded = self.scanner.decoded

    def ids(self, *, preloaded: bool | None = None) -> list[str]:
        """The ids of both folders, sorted; or only those that are preloaded, or only the others.

        A voice is preloaded if only the preloaded folder has it; such voices cannot be deleted.
        """
        if preloaded is None:
            return sorted(self.scanner.voices)
        paths = self.scanner.versions
        users = {nfc(path.name) for path in paths if path.parent == self._user.path}
        return [voice_id for voice_id in self.ids() if (voice_id not in users) == preloaded]

    def find(self, name: str) -> str | None:
        """The id that equals `name`, or the only id that equals it without its ending."""
        name, voices = nfc(name), self.scanner.voices
        if name in voices:
            return name
        found = [voice_id for voice_id in voices if voice_id.rpartition(".")[0] == name]
        return found[0] if len(found) == 1 else None

    def not_found(self, voice_id: str, alias: str | None = None) -> VoiceNotFound:
        """The error for a missing voice, with a suggestion. `alias`: the name in the request."""
        shown = voice_id if len(voice_id) <= MAX_ID_LENGTH else f"{voice_id[:MAX_ID_LENGTH]}…"
        message = f"There is no voice {shown!r}"
        if alias is not None:
            message += f", which {alias!r} stands for"
        near = self.find(voice_id)
        suggestion = f" Is {near!r} meant?" if near else ""
        return VoiceNotFound(f"{message}.{suggestion} GET /voices lists them.", param="voice_id")

    def snapshot(self) -> dict[str, str]:
        """Each id with its digest; a user's voice hides a preloaded one of the same id."""
        return dict(self.scanner.voices)

    def pin(self, voice_id: str) -> str:
        """The digest of a voice; its decoded audio stays until `unpin`. Raises VoiceNotFound."""
        digest = self.scanner.voices.get(nfc(voice_id))
        if digest is None:
            raise self.not_found(voice_id)
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
                        await self.decoded.decode(temp, digest)
                        await self._publish(temp, voice_id, digest, replace)
            finally:
                await self._thread.run(self._user.discard, temp)
        log.info("voice %s added", voice_id)

    async def delete(self, voice_id: str) -> None:
        """Remove a voice of the user. Raises VoiceNotFound, PreloadedVoice, StorageUnavailable."""
        voice_id = nfc(voice_id)
        if voice_id not in self.scanner.voices:
            raise self.not_found(voice_id)
        with _storage_errors():
            async with self.scanner.changing:
                removed = await self._thread.run(self._user.remove, voice_id)
                await self.scanner.refresh()
        if not removed:
            if voice_id in self.scanner.voices:
                raise PreloadedVoice("A preloaded voice cannot be deleted.", param="voice_id")
            raise self.not_found(voice_id)
        log.info("voice %s deleted", voice_id)

    def check(self) -> None:
        """Raises StartupError if a folder cannot be read. Blocks; to be called at start only."""
        self.scanner.check()

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
        counts = Counter(path.parent for path, version in versions if version.digest)
        folders = (self._user, self._preloaded)
        found = (f"{counts[folder.path]} in {folder.path.absolute()}" for folder in folders)
        log.info("voices: %s", ", ".join(found))
        for folder in folders:
            problem = await self._thread.run(folder.problem, written=folder is self._user)
            if problem:
                log.warning("the voices folder %s %s", folder.path.absolute(), problem)

    def close(self) -> None:
        self._thread.close()

    async def _publish(self, temp: Path, voice_id: str, digest: str, replace: bool) -> None:
        move = self._user.replace if replace else self._user.create_exclusive
        async with self.scanner.changing:
            signature = await self._thread.run(signature_of, temp)  # moving does not change it
            await self._thread.run(move, temp, voice_id)
            self.scanner.versions[self._user.path / voice_id] = FileVersion(signature, digest)
            await self.scanner.refresh()

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
