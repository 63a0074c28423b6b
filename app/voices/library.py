"""The voices: known to clients by id, to workers by digest.

The folders are the truth, and may be shared with other masters or changed by hand; `VoiceLibrary`
remembers what it has learned of each version of each file. Routes call `add`, `delete`, `ids` and
`find`, the dispatcher `pin` and `unpin`; `on_change` tells the workers.

A digest is the SHA-256 of a file's bytes. The decoded audio lies in a private folder under that
name (`audio.decode.load_decoded` reads it) for as long as a file or a pin needs it, so that a job
ends with the voice it was accepted with, whatever becomes of the file.
"""

import asyncio
import errno
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import BinaryIO, NamedTuple, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from app.audio.sandbox import DecoderKilled, decode_file
from app.core.errors import (
    InvalidVoiceId,
    PreloadedVoice,
    ServiceError,
    StartupError,
    StorageFull,
    StorageUnavailable,
    UnusableAudio,
    VoiceNotFound,
)
from app.voices.folder import (
    MAX_ID_LENGTH,
    Signature,
    VoiceFolder,
    casefold_key,
    digest_of,
    is_unchanged,
    nfc,
    signature_of,
    validate_voice_id,
)

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

_PARALLEL_DECODERS = 2
_RETRY_S = 5.0
"""After which a file that could not be read is tried again: permissions and disks get mended."""

_DECODER_RETRY_S = 60.0
_MOST_STRIKES = 3
"""So often a decoder may be struck down over a file, that long apart."""


class _Version(NamedTuple):
    """What is known of one version of a file; without a digest, it is no voice."""

    signature: Signature
    digest: str | None


class _Trouble(NamedTuple):
    """A version of a file that could not be read; `again_at`, by `monotonic`, it may be tried.

    `strikes`: decoders that were struck down over it.
    """

    signature: Signature
    again_at: float
    strikes: int = 0


class VoiceLibrary:
    """Owns the user's voices, the preloaded ones, and the (existing, private) `decoded_dir`.

    The voice folders are touched on one thread only, so what is done to them has an order.
    `on_change` is called on the event loop with every new snapshot.
    """

    def __init__(
        self, user_dir: Path, preloaded_dir: Path, decoded_dir: Path, max_upload_bytes: int
    ) -> None:
        self.on_change: Callable[[dict[str, str]], None] = lambda snapshot: None
        self._user = VoiceFolder(user_dir)
        self._preloaded = VoiceFolder(preloaded_dir)
        self._decoded_dir = decoded_dir
        self._max_upload_bytes = max_upload_bytes
        self._versions: dict[Path, _Version] = {}
        self._troubles: dict[Path, _Trouble] = {}
        self._snapshot: dict[str, str] = {}
        self._decoded: set[str] = set()
        self._pins: Counter[str] = Counter()
        self._readable: bool | None = None  # None: not known yet
        self._scanning = asyncio.Lock()
        self._changing = asyncio.Lock()  # held while folder and memory change together
        self._uploading: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._decoders = asyncio.Semaphore(_PARALLEL_DECODERS)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="voice-files")

    def ids(self, *, preloaded: bool | None = None) -> list[str]:
        """The ids of both folders, sorted; or only those that are preloaded, or only the others.

        Preloaded is what the user's folder has no file for: it cannot be deleted.
        """
        if preloaded is None:
            return sorted(self._snapshot)
        users = {nfc(path.name) for path in self._versions if path.parent == self._user.path}
        return [voice_id for voice_id in self.ids() if (voice_id not in users) == preloaded]

    def find(self, name: str) -> str | None:
        """The id that is `name`, or the only one that is `name` but for its ending."""
        name = nfc(name)
        if name in self._snapshot:
            return name
        found = [voice_id for voice_id in self._snapshot if voice_id.rpartition(".")[0] == name]
        return found[0] if len(found) == 1 else None

    def not_found(self, voice_id: str, alias: str | None = None) -> VoiceNotFound:
        """Says which there is not, and which may be meant. `alias`: what it was asked for by."""
        asked = f"There is no voice {_brief(voice_id)!r}"
        if alias is not None:
            asked += f", which {alias!r} stands for"
        near = self.find(voice_id)
        meant = f" Is {near!r} meant?" if near else ""
        return VoiceNotFound(f"{asked}.{meant} GET /voices lists them.", param="voice_id")

    def snapshot(self) -> dict[str, str]:
        """Each id with its digest; a user's voice hides a preloaded one of the same id."""
        return dict(self._snapshot)

    def pin(self, voice_id: str) -> str:
        """The digest of a voice; its decoded audio stays until `unpin`. Raises VoiceNotFound."""
        digest = self._snapshot.get(nfc(voice_id))
        if digest is None:
            raise self.not_found(voice_id)
        self._pins[digest] += 1
        return digest

    def unpin(self, digest: str) -> None:
        """Undo one `pin`."""
        self._pins[digest] -= 1
        self._drop_unused()

    async def add(self, voice_id: str, content: BinaryIO, *, replace: bool) -> None:
        """Make `content` a voice of the user: whole, decodable and on disk, or not there at all.

        Raises InvalidVoiceId, VoiceExists (unless `replace`; for an id that differs in case only,
        too), PayloadTooLarge, UnusableAudio, StorageFull, StorageUnavailable.
        """
        voice_id = validate_voice_id(voice_id)
        temp = self._user.new_temp()
        async with self._lock_of(voice_id):
            try:
                with _storage_faults():
                    if not replace:
                        await self._in_thread(self._user.ensure_free, voice_id)
                    digest = await self._in_thread(
                        self._user.receive, content, temp, self._max_upload_bytes
                    )
                    with self._kept(digest):
                        await self._decode(temp, digest)
                        await self._publish(temp, voice_id, digest, replace)
            finally:
                await self._in_thread(self._user.discard, temp)
        log.info("voice %s added", voice_id)

    async def delete(self, voice_id: str) -> None:
        """Remove a voice of the user. Raises VoiceNotFound, PreloadedVoice, StorageUnavailable."""
        voice_id = nfc(voice_id)
        if voice_id not in self._snapshot:
            raise self.not_found(voice_id)
        with _storage_faults():
            async with self._changing:
                removed = await self._in_thread(self._user.remove, voice_id)
                await self._refresh()
        if not removed:
            if voice_id in self._snapshot:
                raise PreloadedVoice("A preloaded voice cannot be deleted.", param="voice_id")
            raise self.not_found(voice_id)
        log.info("voice %s deleted", voice_id)

    def check(self) -> None:
        """Raises StartupError if a folder cannot be read. Blocks: for before all else."""
        try:
            self._list()
        except OSError as fault:
            self._note_unreadable(fault)

    async def scan(self) -> None:
        """Take note of what is new in the folders, what has changed and what is gone.

        Raises StartupError if a folder cannot be read the first time. Later that is logged, and
        what was known stays.
        """
        async with self._scanning:
            try:
                if self._readable is None:
                    await self._in_thread(self._user.discard_stale)
                found = await self._in_thread(self._list)
                self._troubles = {
                    path: trouble
                    for path, trouble in self._troubles.items()
                    if found.get(path) == trouble.signature
                }
                async with asyncio.TaskGroup() as group:
                    for path, signature in found.items():
                        if self._is_to_be_learned(path, signature):
                            group.create_task(self._learn(path, signature))
                async with self._changing:
                    await self._refresh()
            except OSError as fault:
                self._note_unreadable(fault)
            else:
                self._readable = True

    async def log_folders(self) -> None:
        """Say where voices are, how many, and what is wrong with a folder. For after a scan."""
        counts = Counter(path.parent for path, known in self._versions.items() if known.digest)
        folders = (self._user, self._preloaded)
        found = (f"{counts[folder.path]} in {folder.path.absolute()}" for folder in folders)
        log.info("voices: %s", ", ".join(found))
        for folder in folders:
            trouble = await self._in_thread(folder.trouble, written=folder is self._user)
            if trouble:
                log.warning("the voices folder %s %s", folder.path.absolute(), trouble)

    async def watch(self, interval_s: float) -> None:
        """Scan for ever. Polling, because a network volume does not report what others do."""
        while True:
            await asyncio.sleep(interval_s)
            await self.scan()

    def close(self) -> None:
        """Wait for the file operation in progress; no other call may follow."""
        self._thread.shutdown()

    # --- From the folders to the snapshot

    def _is_to_be_learned(self, path: Path, signature: Signature) -> bool:
        version, trouble = self._versions.get(path), self._troubles.get(path)
        if version and version.signature == signature:
            return False
        return trouble is None or trouble.again_at <= monotonic()

    async def _learn(self, path: Path, signature: Signature) -> None:
        """Find out whether this version of a file is a voice."""
        try:
            validate_voice_id(path.name)
            digest = await self._in_thread(digest_of, path)
            with self._kept(digest):
                await self._decode(path, digest)
                await self._note(path, _Version(signature, digest))
        except DecoderKilled as refusal:
            trouble = self._troubles.get(path)
            strikes = 1 + (trouble.strikes if trouble else 0)
            if strikes < _MOST_STRIKES:
                self._complain(path, refusal)
                again_at = monotonic() + _DECODER_RETRY_S
                self._troubles[path] = _Trouble(signature, again_at, strikes)
            else:
                await self._ignore(path, signature, refusal)
        except (InvalidVoiceId, UnusableAudio) as refusal:
            await self._ignore(path, signature, refusal)
        except (OSError, StorageFull) as fault:
            self._complain(path, fault)
            self._troubles[path] = _Trouble(signature, monotonic() + _RETRY_S)

    def _complain(self, path: Path, fault: Exception) -> None:
        if path not in self._troubles:
            log.warning("%a cannot be read now: %s", str(path), fault)

    async def _ignore(self, path: Path, signature: Signature, refusal: ServiceError) -> None:
        log.warning("%a is ignored: %s", str(path), refusal.message)
        await self._note(path, _Version(signature, None))

    async def _note(self, path: Path, version: _Version) -> None:
        async with self._changing:
            # If the file changed while it was read, the next scan sees a new signature.
            if await self._in_thread(is_unchanged, path, version.signature):
                self._versions[path] = version
                self._troubles.pop(path, None)

    async def _publish(self, temp: Path, voice_id: str, digest: str, replace: bool) -> None:
        move = self._user.replace if replace else self._user.create_exclusive
        async with self._changing:
            signature = await self._in_thread(signature_of, temp)  # moving changes nothing of it
            await self._in_thread(move, temp, voice_id)
            self._versions[self._user.path / voice_id] = _Version(signature, digest)
            await self._refresh()

    async def _refresh(self) -> None:
        """Bring the snapshot in line with the folders; `_changing` is held."""
        found = await self._in_thread(self._list)
        for path in self._versions.keys() - found.keys():
            del self._versions[path]
        before, self._snapshot = self._snapshot, self._voices()
        if self._snapshot != before:
            self.on_change(self.snapshot())
        self._drop_unused()

    def _voices(self) -> dict[str, str]:
        # The later one counts: the user's, and of two forms of one name the nfc one.
        order = sorted(self._versions, key=lambda path: (path.parent == self._user.path, path.name))
        digests = ((path.name, self._versions[path].digest) for path in order)
        return {nfc(name): digest for name, digest in digests if digest}

    def _list(self) -> dict[Path, Signature]:
        return self._preloaded.files() | self._user.files()

    def _note_unreadable(self, fault: OSError) -> None:
        message = f"The voices folder {fault.filename} cannot be read: {fault.strerror}."
        if self._readable is None:
            raise StartupError(message) from fault
        if self._readable:
            log.error("%s What was known stays.", message)
        self._readable = False

    # --- Decoded voices

    async def _decode(self, source: Path, digest: str) -> None:
        async with self._decoders:
            if digest not in self._decoded:
                await decode_file(source, self._decoded_dir / digest)
                self._decoded.add(digest)

    @contextmanager
    def _kept(self, digest: str) -> Iterator[None]:
        self._pins[digest] += 1
        try:
            yield
        finally:
            self.unpin(digest)

    def _drop_unused(self) -> None:
        self._pins = +self._pins  # forgets what is down to zero
        needed = {version.digest for version in self._versions.values()} | self._pins.keys()
        for digest in self._decoded - needed - set(self._snapshot.values()):
            (self._decoded_dir / digest).unlink(missing_ok=True)
            self._decoded.remove(digest)

    # --- Order

    def _lock_of(self, voice_id: str) -> asyncio.Lock:
        """Makes uploads of one name, in whatever case, take turns."""
        return self._uploading.setdefault(casefold_key(voice_id), asyncio.Lock())

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: work(*args, **kwargs))


def _brief(voice_id: str) -> str:
    """Of what can be no id, only the beginning."""
    return voice_id if len(voice_id) <= MAX_ID_LENGTH else f"{voice_id[:MAX_ID_LENGTH]}…"


@contextmanager
def _storage_faults() -> Iterator[None]:
    """Turn what the operating system says into what the client is told."""
    try:
        yield
    except OSError as fault:
        if fault.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("There is no space left for voices.") from fault
        log.error("voices cannot be stored: %s", fault)
        raise StorageUnavailable("Voices cannot be stored or removed at the moment.") from fault
