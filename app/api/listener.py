"""The listening socket of a port; made by `api.server`, before all else.

When the process has no descriptor left, connections wait in the kernel until it has one again.
"""

import errno
import logging
import socket
from typing import Any

from app.errors import StartupError

log = logging.getLogger(__name__)

BACKLOG = 1024
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener(socket.socket):
    """For asyncio, which pauses for a second when it cannot accept.

    But before it pauses it tries again, as often as its backlog is long, and each failure costs
    it a traceback and one more timer. Here, after the first one nobody seems to be waiting.
    """

    _failed = False  # just now
    _exhausted = False  # since the last connection that was accepted

    def accept(self) -> tuple[socket.socket, Any]:
        if self._failed:
            self._failed = False
            raise BlockingIOError
        try:
            accepted = super().accept()
        except OSError as error:
            self._failed = error.errno in _EXHAUSTED
            if self._failed and not self._exhausted:
                self._exhausted = True
                log.error("connections must wait: %s", error.strerror)
            raise
        self._exhausted = False
        return accepted


def listen(host: str, port: int) -> Listener:
    """Raises `StartupError` if the port cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, or asyncio will not turn Nagle's algorithm off: 40 ms on every small answer.
    listener = Listener(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise StartupError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return listener
