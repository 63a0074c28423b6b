"""A limit on the number of uploads under way, each of which takes disk space and a decoder."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.core.errors import TooManyUploads
from app.core.running_time import timeout

MAX_UPLOADS = 8
MAX_WAITING = 16
MAX_WAIT_S = 30.0


class UploadSlots:
    """Allows `MAX_UPLOADS` at a time; `MAX_WAITING` more wait, for `MAX_WAIT_S` at most."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(MAX_UPLOADS)
        self._waiting = 0

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Occupy a slot while inside. Raises `TooManyUploads`."""
        await self._acquire()
        try:
            yield
        finally:
            self._free.release()

    async def _acquire(self) -> None:
        if self._waiting >= MAX_WAITING and self._free.locked():
            raise TooManyUploads(
                f"{MAX_UPLOADS} voices are being uploaded and {MAX_WAITING} more uploads wait."
            )
        self._waiting += 1
        try:
            async with timeout(MAX_WAIT_S):
                await self._free.acquire()
        except TimeoutError:
            raise TooManyUploads(
                f"{MAX_UPLOADS} voices are still being uploaded after {MAX_WAIT_S:g} s."
            ) from None
        finally:
            self._waiting -= 1
