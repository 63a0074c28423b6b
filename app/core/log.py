"""Logging to standard error, in the same format in master and workers."""

import logging
import sys

LINE = "%(asctime)s %(levelname)-7s {process}: %(message)s"


class OneLine(logging.Formatter):
    """Escapes line breaks, so that no client can forge a log line."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = record.message.replace("\r", "\\r").replace("\n", "\\n")
        return super().formatMessage(record)


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


def set_up_logging(level: str, process: str) -> None:
    """Log everything by one handler; each line has the name of the `process`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine(LINE.format(process=process.replace("%", "%%"))))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Lines have neither source location nor thread, so records need not look them up.
    logging._srcfile = None
    logging.logThreads = logging.logMultiprocessing = logging.logProcesses = False
    for server in ("uvicorn.error", "asyncio"):
        logging.getLogger(server).addFilter(_DropExpected())
    for name in ("httpx", "urllib3", "filelock", "multipart", "python_multipart"):
        logging.getLogger(name).setLevel(logging.WARNING)
