"""The control socket of a worker process: a socket pair that is the worker's standard input.

Backend to worker: the configuration; EOF stops the worker. Worker to backend: reports, already in
the kernel when `send` returns. A crash can lose a ZeroMQ message, which another thread writes, but
not a report.
"""

import asyncio
import itertools
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress

import msgspec

from app.ipc.messages import Report, WorkerConfig

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 1_048_576
REPORTS_PER_TURN = 100
"""After this many reports in a row, other callbacks of the event loop run."""


class ControlSocket:
    """The backend's end; calls `on_report` on the running event loop. `remote`: the other end."""

    def __init__(self, on_report: Callable[[Report], None]) -> None:
        self._on_report = on_report
        self._decode = msgspec.msgpack.Decoder(Report).decode
        self._socket, self.remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self.receive, REPORTS_PER_TURN)

    def configure(self, config: WorkerConfig) -> None:
        self._socket.send(msgspec.msgpack.encode(config))

    def receive(self, most: int | None = None) -> None:
        """Hand over all reports that have arrived, or so many."""
        with suppress(BlockingIOError, ConnectionResetError):
            for _ in itertools.count() if most is None else range(most):
                frame = self._socket.recv(MAX_MESSAGE_BYTES)
                if not frame:
                    self._loop.remove_reader(self._socket)  # the worker has exited
                    return
                try:
                    report = self._decode(frame)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    log.warning("dropped a report that does not decode: %s", error)
                else:
                    self._on_report(report)

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
        self._socket.close()
        self.remote.close()


class ReportSender:
    """The worker's end; `descriptor` is its standard input."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read_config(self) -> WorkerConfig:
        frame = os.read(self._descriptor, MAX_MESSAGE_BYTES)
        return msgspec.msgpack.decode(frame, type=WorkerConfig)

    def send(self, report: Report) -> None:
        """Blocks while the backend has some hundred reports unread."""
        os.write(self._descriptor, msgspec.msgpack.encode(report))

    def wait_closed(self) -> None:
        """Block until the backend has closed its end or is gone."""
        with suppress(OSError):
            os.read(self._descriptor, 1)
