"""Decoded voices in a private folder, each file named by the digest of the audio file it is from.

`audio.sandbox.load_decoded` reads them in workers. A file stays for as long as a voice or a pin
needs it, so a job ends with the voice it was accepted with, even if that voice is deleted.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from app.audio.sandbox import decode_file

_PARALLEL_DECODERS = 2


class DecodedAudio:
    """Owns the (existing) `folder`. `in_use()` returns the digests that voices have."""

    def __init__(self, folder: Path, in_use: Callable[[], Collection[str]]) -> None:
        self.pins: Counter[str] = Counter()
        self._folder = folder
        self._in_use = in_use
        self._digests: set[str] = set()
        self._decoders = asyncio.Semaphore(_PARALLEL_DECODERS)

    async def decode(self, source: Path, digest: str) -> None:
        """Decode a file unless that was done before. Raises as `decode_file` does."""
        async with self._decoders:
            if digest not in self._digests:
                await decode_file(source, self._folder / digest)
                self._digests.add(digest)

    def pin(self, digest: str) -> None:
        """Keep the decoded audio until as many calls of `unpin`."""
        self.pins[digest] += 1

    def unpin(self, digest: str) -> None:
        self.pins[digest] -= 1
        self.drop_unused()

    @contextmanager
    def pinned(self, digest: str) -> Iterator[None]:
        self.pin(digest)
        try:
            yield
        finally:
            self.unpin(digest)

    def drop_unused(self) -> None:
        self.pins = +self.pins  # drops counts of zero
        for digest in self._digests - self.pins.keys() - set(self._in_use()):
            (self._folder / digest).unlink(missing_ok=True)
            self._digests.remove(digest)
