"""Logging to standard error, in the same format in master and workers."""

import logging
import os
import threading
import time
from types import TracebackType
from typing import TypeAlias

LINE = "%(asctime)s %(levelname)-7s {process}: %(message)s"
STDERR = 2

_ESCAPES = {
    code: chr(code).encode("unicode_escape").decode()
    for code in (
        *(*range(0x20), *range(0x7F, 0xA0), 0x61C),
        *(*range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2066, 0x206A)),
    )
}
"""Of characters that control a terminal, separate lines or change the direction of text."""

_ExcInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)


class OneLine(logging.Formatter):
    """Escapes control characters: no client can forge a line or send escapes to a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = record.message.translate(_ESCAPES)
        return super().formatMessage(record)

    def formatException(self, ei: _ExcInfo) -> str:
        lines = super().formatException(ei).split("\n")
        return "\n".join(line.translate(_ESCAPES) for line in lines)


_LOGGED_ELSEWHERE = (
    "ASGI callable returned without completing",
    "Cancel ",
    "socket.accept() out of system resource",
)


class _DropExpected(logging.Filter):
    """Drops messages of uvicorn and asyncio about events that this service logs itself."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not message.startswith(_LOGGED_ELSEWHERE)


class BackgroundHandler(logging.Handler):
    """Writes to a file descriptor on a thread of its own, so that a reader can delay nothing else.

    Lines that do not fit are dropped and counted. They are written in batches, at most `BATCH_S`
    late: under load a system call and a switch of threads for each line would cost more.
    """

    MAX_WAITING_BYTES = 1_048_576
    BATCH_S = 0.02
    FLUSH_S = 1.0

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.dropped = 0
        self._fd = fd
        self._lines: list[bytes] = []
        self._waiting_bytes = 0
        self._changing = threading.Lock()  # not the handler's own, which `logging` holds at exit
        self._any = threading.Event()
        self._thread = threading.Thread(target=self._write_batches, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        with self._changing:
            if self._waiting_bytes + len(line) > self.MAX_WAITING_BYTES:
                self.dropped += 1
                return
            self._lines.append(line)
            self._waiting_bytes += len(line)
        if not self._any.is_set():
            self._any.set()

    def flush(self) -> None:
        """Wait until everything is written, at most `FLUSH_S`. `logging` calls it at exit."""
        due = time.monotonic() + self.FLUSH_S
        while self._waiting_bytes and self._thread.is_alive() and time.monotonic() < due:
            time.sleep(self.BATCH_S / 4)

    def _write_batches(self) -> None:
        reported = 0
        while True:
            self._any.wait()
            time.sleep(self.BATCH_S)
            self._any.clear()
            with self._changing:
                lines, self._lines = self._lines, []
                unreported, reported = self.dropped - reported, self.dropped
            batch = b"".join(lines)
            self._write(batch, len(lines))
            if unreported:
                self._write(self._report(unreported), 1)
            with self._changing:
                self._waiting_bytes -= len(batch)

    def _report(self, dropped: int) -> bytes:
        message = f"{dropped} lines of the log were dropped: nobody read it"
        record = logging.LogRecord(__name__, logging.WARNING, "", 0, message, None, None)
        return f"{self.format(record)}\n".encode()

    def _write(self, batch: bytes, lines: int) -> None:
        rest = memoryview(batch)
        try:
            while rest:
                try:
                    rest = rest[os.write(self._fd, rest) :]
                except BlockingIOError:  # another process made it non-blocking
                    time.sleep(self.BATCH_S)
        except OSError:  # the reader has exited, or the disk is full
            self.dropped += lines


def set_up_logging(level: str, process: str) -> None:
    """Log everything by one handler; each line has the name of the `process`."""
    handler = BackgroundHandler(STDERR)
    handler.setFormatter(OneLine(LINE.format(process=process.replace("%", "%%"))))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Lines have neither source location nor thread, so records need not look them up.
    logging._srcfile = None
    logging.logThreads = logging.logMultiprocessing = logging.logProcesses = False
    for server in ("uvicorn.error", "asyncio"):
        logging.getLogger(server).addFilter(_DropExpected())
    for name in ("httpx", "urllib3", "filelock", "multipart", "python_multipart"):
        logging.getLogger(name).setLevel(logging.WARNING)


def dropped_lines() -> int:
    """Lines of this process that were not written."""
    handlers = logging.getLogger().handlers
    return sum(each.dropped for each in handlers if isinstance(each, BackgroundHandler))
