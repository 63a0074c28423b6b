"""The listening socket of a port; made by `api.server`, before all else.

When descriptors run out, connections wait in the kernel until there are some again. A part is
kept from them: a worker that is started anew needs a dozen, and libzmq aborts the process that
has none for it.
"""

import errno
import logging
import os
import resource
import select
import socket
from typing import Any

from app.core.errors import StartupError

log = logging.getLogger(__name__)

BACKLOG = 1024
MOST_DESCRIPTORS = 65_536
KEPT_SHARE = 4  # one in so many descriptors is not for connections
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
            self._keep_some_descriptors()
            accepted = super().accept()
        except OSError as error:
            self._failed = error.errno in _EXHAUSTED
            if self._failed and not self._exhausted:
                self._exhausted = True
                log.error("connections must wait: %s", error.strerror)
            raise
        self._exhausted = False
        return accepted

    def _keep_some_descriptors(self) -> None:
        """Raises what `accept` would without any, if somebody waits and only those kept are left.

        A new descriptor has the lowest free number, which tells how many are taken.
        """
        lowest_free = os.dup(self.fileno())
        os.close(lowest_free)
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit == resource.RLIM_INFINITY or lowest_free < limit - limit // KEPT_SHARE:
            return
        waiting = select.poll()
        waiting.register(self, select.POLLIN)
        if not waiting.poll(0):
            raise BlockingIOError
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def allow_many_descriptors() -> None:
    """As many as the system lets this process have, where it was given less to begin with."""
    given, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = MOST_DESCRIPTORS if most == resource.RLIM_INFINITY else min(most, MOST_DESCRIPTORS)
    if given != resource.RLIM_INFINITY and given < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))


def url_of(host: str, port: int) -> str:
    """What a person on this machine opens: of all its addresses, localhost."""
    name = "localhost" if host in ("", "0.0.0.0", "::") else host  # noqa: S104
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/"


def listen(host: str, port: int, setting: str) -> Listener:
    """Raises `StartupError` if the port, which `setting` names, cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, or asyncio will not turn Nagle's algorithm off: 40 ms on every small answer.
    listener = Listener(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            setting = "HOST"
        raise StartupError(
            f"cannot listen on {host}:{port}: {error.strerror}; set another {setting}"
        ) from None
    return listener
