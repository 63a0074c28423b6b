"""Listening sockets that reserve a share of the file descriptors.

When connections have used up theirs, new ones wait in the kernel's backlog. The reserve is for
workers: starting one takes a dozen descriptors, and libzmq aborts the process if it gets none.
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
MAX_DESCRIPTORS = 65_536
MAX_UNSENT_BYTES = 131_072
RESERVED_SHARE = 4  # one of four descriptors is not for connections
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener(socket.socket):
    """Report exhausted descriptors to asyncio once per event.

    On EMFILE asyncio logs a traceback and pauses for a second, but first calls `accept` again, as
    many times as the backlog is long. After a failure, the next call raises `BlockingIOError`.
    """

    _failed = False  # in the last call
    _exhausted = False  # since the last accepted connection

    def accept(self) -> tuple[socket.socket, Any]:
        if self._failed:
            self._failed = False
            raise BlockingIOError
        try:
            self._check_reserve()
            accepted = super().accept()
        except OSError as error:
            self._failed = error.errno in _EXHAUSTED
            if self._failed and not self._exhausted:
                self._exhausted = True
                log.error("connections must wait: %s", error.strerror)
            raise
        self._exhausted = False
        return accepted

    def _check_reserve(self) -> None:
        """Raise EMFILE if a connection waits and only the reserve is left.

        A new descriptor has the lowest free number, so that shows how many are in use.
        """
        lowest_free = os.dup(self.fileno())
        os.close(lowest_free)
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit == resource.RLIM_INFINITY or lowest_free < limit - limit // RESERVED_SHARE:
            return
        poll = select.poll()
        poll.register(self, select.POLLIN)
        if not poll.poll(0):
            raise BlockingIOError
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def allow_many_descriptors() -> None:
    """Raise the soft limit to the hard limit, at most `MAX_DESCRIPTORS`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def url_of(host: str, port: int) -> str:
    """Return the URL for a browser on this machine; localhost for all addresses."""
    name = "localhost" if host in ("", "0.0.0.0", "::") else host  # noqa: S104
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/"


def listen(host: str, port: int, setting: str) -> Listener:
    """Listen on a port; on `::` for IPv4, too.

    Raises `StartupError` naming `setting`, the port's, or HOST.
    """
    try:
        host.encode("idna")  # `bind` raises other errors
        return _listen(host, port)
    except UnicodeError:
        reason, setting = "this is no host name", "HOST"
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            setting = "HOST"
    ipv4 = ", such as 0.0.0.0 for IPv4" if setting == "HOST" and ":" in host else ""
    raise StartupError(f"cannot listen on {host}:{port}: {reason}; set another {setting}{ipv4}")


def _listen(host: str, port: int) -> Listener:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio disables Nagle's algorithm (40 ms per small response) only if the protocol is TCP.
    listener = Listener(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by connections: the kernel holds little for a client that does not read.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_UNSENT_BYTES)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
