"""The file of a voice, opened for a download, which a deletion or another name does not end."""

import errno
import os
from typing import BinaryIO

from app.core.blocking_thread import BlockingThread

PIECE_BYTES = 1 << 18


class OpenVoice:
    """`size`: in bytes. To be closed."""

    def __init__(self, file: BinaryIO, thread: BlockingThread) -> None:
        self.size = self._left = os.fstat(file.fileno()).st_size
        self._file = file
        self._thread = thread

    async def read(self) -> bytes:
        """The next piece; empty at the end. Raises OSError."""
        if not self._left:
            return b""
        piece = await self._thread.run(self._file.read, min(self._left, PIECE_BYTES))
        if not piece:
            raise OSError(errno.EIO, "it was cut off while it was read", self._file.name)
        self._left -= len(piece)
        return piece

    def close(self) -> None:
        self._thread.submit(self._file.close)  # after a read that is still in progress
