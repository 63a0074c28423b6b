"""Decoded voices in a private folder, each file named by the digest of the audio file it is from.

`audio.sandbox.load_decoded` reads them in workers, which may keep what they compute from a voice
beside it, as `DIGEST.…`. Both stay for as long as a voice or a pin needs them, so a job ends with
the voice it was accepted with, even if that voice is deleted. They are found again at the next
start, and made again if they vanish.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from app.audio.sandbox import decode, prepared_path
from app.core.errors import StorageFull

FORMAT = 1
"""To be raised when the decoder gives other samples for the same file."""

_PARALLEL_DECODERS = 2
_MIN_BYTES = 16_000  # one second at 4 kHz
_MEGABYTE = 1 << 20


class Listing(NamedTuple):
    """Changes of the folder since the last look, and the names that no voice needs."""

    present: frozenset[str]
    appeared: dict[str, int]
    vanished: set[str]
    unused: list[str]


class DecodedAudio:
    """Owns the private `folder`, in which decoded audio may take `max_mb`."""

    def __init__(self, folder: Path, max_mb: int) -> None:
        self.pins: Counter[str] = Counter()
        self._folder = folder
        self._max_mb = max_mb
        self._in_use: frozenset[str] = frozenset()
        self._added: set[str] = set()  # in use, too, since the last `keep`
        self._sizes: dict[str, int] = {}  # by digest, in bytes
        self._decoders = asyncio.Semaphore(_PARALLEL_DECODERS)

    def list_files(self) -> Listing:
        """Look what is in the folder, and remove what was cut since. Blocks. Raises OSError."""
        known, in_use = dict(self._sizes), self._in_use
        for digest, size in known.items():
            if self._size_of(digest) != size:
                (self._folder / digest).unlink(missing_ok=True)
        try:
            names = frozenset(os.listdir(self._folder))
        except FileNotFoundError:
            names = frozenset()
        digests = {name for name in names if "." not in name}
        appeared = {digest: self._size_of(digest) for digest in digests - known.keys()}
        unused = [name for name in names if name.partition(".")[0] not in in_use]
        return Listing(names, appeared, known.keys() - digests, unused)

    def update(self, listing: Listing) -> None:
        for digest in listing.vanished:
            self._sizes.pop(digest, None)
        self._sizes |= listing.appeared

    def unneeded(self, names: list[str]) -> list[str]:
        """Those of voices that are gone, perhaps since an earlier run of the service."""
        digests = {name.partition(".")[0] for name in names}
        # A name that begins with a dot is of a file that is being written.
        return self._forget(digest for digest in digests if digest)

    def remove(self, digests: list[str]) -> None:
        """Delete decoded voices, and what workers have kept of them. Blocks."""
        for digest in digests:
            decoded = self._folder / digest
            decoded.unlink(missing_ok=True)
            prepared_path(decoded).unlink(missing_ok=True)

    def has(self, digest: str) -> bool:
        return self._size_of(digest) >= _MIN_BYTES

    async def decode(self, media: BinaryIO, digest: str) -> None:
        """Decode a file unless that was done before. Raises StorageFull, and as `decode` does."""
        async with self._decoders:
            if self.has(digest):
                return
            if sum(self._sizes.values()) >= self._max_mb * _MEGABYTE:
                raise StorageFull(
                    f"Decoded voices take the {self._max_mb:,} MB that VOICE_CACHE_MB allows."
                )
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            await decode(media, self._folder / digest)
            self._sizes[digest] = self._size_of(digest)

    def add_use(self, digest: str) -> None:
        """Keep the decoded audio of a new voice, until the next `keep` decides."""
        self._added.add(digest)

    def keep(self, digests: frozenset[str]) -> list[str]:
        """Set the digests that voices have; return those to `remove`, which only others needed."""
        dropped = (self._in_use | self._added) - digests
        self._in_use, self._added = digests, set()
        return self._forget(dropped)

    def pin(self, digest: str) -> None:
        """Keep the decoded audio until as many calls of `unpin`."""
        self.pins[digest] += 1

    def unpin(self, digest: str) -> None:
        self.pins[digest] -= 1
        if not self.pins[digest]:
            del self.pins[digest]
            self.remove(self._forget([digest]))

    @contextmanager
    def pinned(self, digest: str) -> Iterator[None]:
        self.pin(digest)
        try:
            yield
        finally:
            self.unpin(digest)

    def _forget(self, digests: Iterable[str]) -> list[str]:
        """Those that no voice and no pin needs, which from now on do not count."""
        needed = (self._in_use, self._added, self.pins)
        unneeded = [digest for digest in digests if not any(digest in each for each in needed)]
        for digest in unneeded:
            self._sizes.pop(digest, None)
        return unneeded

    def _size_of(self, digest: str) -> int:
        try:
            return (self._folder / digest).stat().st_size
        except OSError:
            return 0
