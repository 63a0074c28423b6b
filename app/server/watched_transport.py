"""A TCP transport that knows for how long its client has taken nothing of what was written."""

import asyncio
import struct
import termios
from fcntl import ioctl
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

from app.core.running_time import running_time

MAX_READ_BYTES = 65_536
"""Bytes that one read brings; asyncio's own limit is four times as high."""

MAX_BUFFERED_BYTES = 32_768
"""With more in the transport's buffer, responses wait."""


class WatchedTransport:
    """Delegates to `transport`, and counts what is written to it."""

    def __init__(self, transport: Any) -> None:
        transport.max_size = MAX_READ_BYTES
        transport.set_write_buffer_limits(MAX_BUFFERED_BYTES)
        self.transport: asyncio.Transport = transport
        self._socket = transport.get_extra_info("socket")
        self._written = 0
        self._taken = 0  # when there was last progress
        self._progress_at = running_time()
        self.is_closing = transport.is_closing  # called for each request

    def write(self, data: bytes) -> None:
        self._written += len(data)
        self.transport.write(data)

    def abort(self) -> None:
        """Reset the connection, so that the kernel drops what it has not sent."""
        self.reset_at_close(True)
        self.transport.abort()

    def reset_at_close(self, reset: bool) -> None:
        self._socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", reset, 0))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def stalled_s(self, least_bytes: int) -> float:
        """Return the seconds in which the client took neither all nor `least_bytes`.

        Bytes are taken when the client's machine has acknowledged them. The accuracy is the time
        between two calls.
        """
        now = running_time()
        if self._taken == self._written:
            self._progress_at = now
            return 0.0
        taken = self._written - self.transport.get_write_buffer_size() - self._in_kernel()
        if taken == self._written or taken - self._taken >= least_bytes:
            self._taken, self._progress_at = taken, now
        return now - self._progress_at

    def _in_kernel(self) -> int:
        """Return the number of bytes that the kernel has, sent or not, without acknowledgement."""
        (waiting,) = struct.unpack("i", ioctl(self._socket.fileno(), termios.TIOCOUTQ, bytes(4)))
        return int(waiting)
