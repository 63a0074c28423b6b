"""The service with one injected fault: `python -m tests.support.fault_injection PART serve`.

For faults that no request and no signal can cause; all else is the real service.
"""

import asyncio
import atexit
import errno
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from app.audio import ffmpeg_encoders
from app.backend.local import managed_worker
from app.cli import main as cli
from app.ipc.channels import Broadcaster
from app.ipc.messages import Broadcast
from app.server import main as server
from app.server import voice_cache_dir
from app.server.connection import DeadlineHttpProtocol
from app.voices import decoded_audio, library, scanner

DISK_IS_FULL = Path("disk-is-full")
ENCODER_ROOM = Path("encoder-room")
LAGS = Path("lags")
NO_THREADS = Path("no-threads")
HANG = Path("hang")
LAG_INTERVAL_S = 0.005


def encoders_and_disk_get_full() -> None:
    """Report a full disk on demand, by files in the service's folder.

    `encoder-room` has the number of bytes that FFmpeg may write. While there is `disk-is-full`,
    fsync fails.
    """

    class FullSink(ffmpeg_encoders._Sink):
        written = 0

        def write(self, data: bytes) -> int:
            self.written += len(data)
            if ENCODER_ROOM.exists() and self.written > int(ENCODER_ROOM.read_text()):
                return -errno.ENOSPC
            return super().write(data)

    fsync = os.fsync

    def full(descriptor: int) -> None:
        if DISK_IS_FULL.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    ffmpeg_encoders._Sink = FullSink  # type: ignore[misc]
    os.fsync = full  # type: ignore[assignment]


def broadcasts_are_lost() -> None:
    """Drop the first broadcast of each state; its repetitions arrive."""
    send, said = Broadcaster.send, dict[type, Broadcast]()

    def send_repeated(self: Broadcaster, message: Broadcast) -> None:
        if said.get(type(message)) == message:
            send(self, message)
        said[type(message)] = message

    Broadcaster.send = send_repeated  # type: ignore[method-assign]


def circuits_open_at_once() -> None:
    """Open a circuit at the first exit of a worker."""
    managed_worker.CIRCUIT_OPENS_AT = 1


def lag_is_measured() -> None:
    """Record the event loop's lag and write it at exit, in seconds."""
    serve, lags = server.serve, list[tuple[float, float]]()

    async def measure() -> None:
        while True:
            due = monotonic() + LAG_INTERVAL_S
            await asyncio.sleep(LAG_INTERVAL_S)
            lags.append((due, monotonic() - due))

    async def measured(*args: Any) -> None:
        measuring = asyncio.create_task(measure())
        await serve(*args)
        measuring.cancel()

    def write() -> None:
        LAGS.write_text("".join(f"{due} {lag}\n" for due, lag in lags))

    server.serve = measured
    atexit.register(write)


def connections_are_checked_often() -> None:
    """Look four times a second for clients that take nothing."""
    DeadlineHttpProtocol.write_check_s = 0.25


def threads_run_out() -> None:
    """While there is the file `no-threads`, no thread can be started."""
    start = threading.Thread.start

    def start_if_possible(self: threading.Thread) -> None:
        if NO_THREADS.exists():
            raise RuntimeError("can't start new thread")
        start(self)

    threading.Thread.start = start_if_possible  # type: ignore[method-assign]
    scanner._READ_RETRY_S = 0.5


def folders_hang() -> None:
    """While there is the file `hang`, folders whose paths contain its text do not answer."""
    stat = os.stat

    def hanging(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(path: Any = ".", *args: Any, **options: Any) -> Any:
            while _exists(HANG) and HANG.read_text() in f"{path}/":
                sleep(0.02)
            return call(path, *args, **options)

        return run

    def _exists(path: Path) -> bool:
        try:
            stat(path)
        except FileNotFoundError:
            return False
        return True

    for name in ("scandir", "listdir", "mkdir", "open", "stat", "unlink", "utime"):
        setattr(os, name, hanging(getattr(os, name)))
    library.MAX_OPERATION_S = decoded_audio.MAX_OPERATION_S = 1.0
    voice_cache_dir.MAX_OPERATION_S = 1.0


PARTS: dict[str, Callable[[], None]] = {
    "full": encoders_and_disk_get_full,
    "broadcast": broadcasts_are_lost,
    "connections": connections_are_checked_often,
    "circuit": circuits_open_at_once,
    "nothing-but-lag": lag_is_measured,
    "threads": threads_run_out,
    "hang": folders_hang,
}


if __name__ == "__main__":
    PARTS[sys.argv.pop(1)]()
    cli.main()
