"""How log lines look, in the master and in its workers alike."""

import logging
import sys

LINE = "%(asctime)s %(levelname)-7s {process}: %(message)s"


class OneLine(logging.Formatter):
    """Escapes line breaks in messages, so that no client can forge a line."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = record.message.replace("\r", "\\r").replace("\n", "\\n")
        return super().formatMessage(record)


_ELSEWHERE = (
    "ASGI callable returned without completing",
    "Cancel ",
    "socket.accept() out of system resource",
)


class _Expected(logging.Filter):
    """Drops what uvicorn or asyncio calls an error, and this service expects and logs itself."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not message.startswith(_ELSEWHERE)


def set_up_logging(level: str, process: str) -> None:
    """One handler on standard error for everything; `process` says who is speaking."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine(LINE.format(process=process.replace("%", "%%"))))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # A line names neither the place in the code nor a thread: so no record need find them out.
    logging._srcfile = None
    logging.logThreads = logging.logMultiprocessing = logging.logProcesses = False
    for server in ("uvicorn.error", "asyncio"):
        logging.getLogger(server).addFilter(_Expected())
    for chatty in ("httpx", "urllib3", "filelock", "multipart", "python_multipart"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
