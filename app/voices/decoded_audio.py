"""Decoded voices in a private folder, each file named by the digest of the audio file it is from.

`audio.sandbox.load_decoded` reads them in workers, which may keep what they compute from a voice
beside it, as `DIGEST.…`. Both stay for as long as a voice or a pin needs them, so a job ends with
the voice it was accepted with, even if that voice is deleted. They are found again at the next
start, and made again if they vanish.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple
from uuid import uuid4

from app.audio.decode_limits import DecodeLimits
from app.audio.sandbox import decode, is_complete
from app.core.blocking_thread import BlockingThread
from app.core.errors import StorageFull
from app.core.private_file import private_opener

FORMAT = 2
"""To be raised when the decoder gives other samples for the same file, or writes them otherwise."""

MAX_OPERATION_S = 30.0

_PARALLEL_DECODERS = 2
_STALE_S = 3600.0
_MEGABYTE = 1 << 20


class Listing(NamedTuple):
    """What is in the folder. `sizes`: of complete decoded files, by digest, in bytes.

    `digests`: those that any file belongs to. `total_bytes`: of all files.
    """

    sizes: dict[str, int]
    digests: set[str]
    total_bytes: int


class DecodedAudio:
    """Owns the private `folder`, in which decoded audio may take `max_mb`.

    The folder is used on one thread only: like the folders of voices, it may hang.
    """

    def __init__(self, folder: Path, max_mb: int) -> None:
        self.pins: Counter[str] = Counter()
        self._folder = folder
        self._max_mb = max_mb
        self._in_use: frozenset[str] = frozenset()
        self._added: set[str] = set()  # in use, too, since the last `keep`
        self._found = Listing({}, set(), 0)
        self._decoders = asyncio.Semaphore(_PARALLEL_DECODERS)
        self._thread = BlockingThread("decoded voices", str(folder), MAX_OPERATION_S)

    async def scan(self) -> None:
        """Notice what has appeared, vanished or been cut. Raises OSError."""
        self._found = await self._thread.run(self._list, self._found.sizes.copy())

    async def remove_unneeded(self) -> None:
        """Remove what no voice and no pin needs, also if an earlier run left it. Raises OSError.

        To be called when the voices in use are known.
        """
        await self.remove([each for each in self._found.digests if not self._is_needed(each)])

    async def remove(self, digests: list[str]) -> None:
        """Delete decoded voices, and what workers have kept of them. Raises OSError."""
        if digests:
            self._forget(digests)
            await self._thread.run(self._remove, digests)

    def has(self, digest: str) -> bool:
        """Whether it was there at the last scan, or was decoded since."""
        return digest in self._found.sizes

    async def decode(
        self, media: BinaryIO, digest: str, limits: DecodeLimits | None = None
    ) -> None:
        """Decode a file unless that was done before. Raises StorageFull, and as `decode` does.

        With `limits` it is no voice: the space for voices does not bound it.
        """
        async with self._decoders:
            if await self._thread.run(_is_there, self._folder / digest):
                return
            if not limits and self._found.total_bytes >= self._max_mb * _MEGABYTE:
                raise StorageFull(
                    f"Decoded voices take the {self._max_mb:,} MB that VOICE_CACHE_MB allows."
                )
            partial = _PartialFile(self._folder / f".{digest}.{uuid4().hex}")
            try:
                result = await self._thread.run(partial.create)
                await decode(media, result, limits)
                size = await self._thread.run(partial.publish, self._folder / digest)
            finally:  # on the thread, so after `create`, even if that was not waited for
                await self._thread.run(partial.discard)
            sizes, digests, total = self._found
            sizes[digest] = size
            digests.add(digest)
            self._found = self._found._replace(total_bytes=total + size)

    def add_use(self, digest: str) -> None:
        """Keep the decoded audio of a new voice, until the next `keep` decides."""
        self._added.add(digest)

    def keep(self, digests: frozenset[str]) -> list[str]:
        """Set the digests that voices have; return those to `remove`, which only others needed."""
        dropped = (self._in_use | self._added) - digests
        self._in_use, self._added = digests, set()
        return [digest for digest in dropped if not self._is_needed(digest)]

    def pin(self, digest: str) -> None:
        """Keep the decoded audio until as many calls of `unpin`."""
        self.pins[digest] += 1

    def unpin(self, digest: str) -> None:
        self.pins[digest] -= 1
        if not self.pins[digest]:
            del self.pins[digest]
            if not self._is_needed(digest):
                self._forget([digest])
                self._thread.submit(self._remove, [digest])  # if this fails, the next scan does it

    @contextmanager
    def pinned(self, digest: str) -> Iterator[None]:
        self.pin(digest)
        try:
            yield
        finally:
            self.unpin(digest)

    def close(self) -> None:
        self._thread.close()

    def _forget(self, digests: list[str]) -> None:
        sizes, _, total = self._found
        freed = sum(sizes.pop(digest, 0) for digest in digests)
        self._found = self._found._replace(total_bytes=total - freed)

    def _is_needed(self, digest: str) -> bool:
        return any(digest in each for each in (self._in_use, self._added, self.pins))

    # --- on the thread --------------------------------------------------------------------------

    def _list(self, known: dict[str, int]) -> Listing:
        sizes = dict[str, int]()
        digests = set[str]()
        total = 0
        for name in os.listdir(self._folder) if self._folder.exists() else ():
            with suppress(FileNotFoundError):  # removed after it was listed
                path = os.path.join(self._folder, name)
                stat = os.stat(path)
                size = stat.st_size
                digest, _, suffix = name.partition(".")
                if digest:
                    keep = suffix or known.get(digest) == size or is_complete(path)
                else:  # it is being written
                    keep = time.time() - stat.st_mtime < _STALE_S
                if not keep:
                    os.unlink(path)
                    continue
                total += size
                if digest:
                    digests.add(digest)
                if not suffix:
                    sizes[digest] = size
        return Listing(sizes, digests, total)

    def _remove(self, digests: list[str]) -> None:
        """With what each model has prepared of them."""
        removed = set(digests)
        for name in os.listdir(self._folder) if removed else ():
            if name.partition(".")[0] in removed:
                (self._folder / name).unlink(missing_ok=True)


def _is_there(path: Path) -> bool:
    try:
        return is_complete(path)
    except FileNotFoundError:
        return False


class _PartialFile:
    """A file that is being written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def create(self) -> BinaryIO:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = open(self._path, "xb", opener=private_opener)  # noqa: SIM115
        return self._file

    def publish(self, target: Path) -> int:
        """Return the file's size in bytes."""
        size = self._path.stat().st_size
        self._path.replace(target)
        return size

    def discard(self) -> None:
        if self._file:
            self._file.close()
        self._path.unlink(missing_ok=True)
