"""The key that a service has made for itself, kept where this user's command line finds it.

There is a file for each port, which the service locks while it runs: one that a killed service has
left is not locked, and is ignored.
"""

import fcntl
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.core.private_file import FOLDER_NAME, private_dir, private_opener
from app.core.process_env import state_home

log = logging.getLogger(__name__)

FOLDER = "keys"


@contextmanager
def kept_key(port: int, key: str) -> Iterator[None]:
    """Keep the key of the service at `port` until exit; where that fails, the log says so."""
    try:
        path, lock = _keep(port, key)
    except OSError as error:
        log.warning(
            "chatterbox-tts speak and voices will not know the key (%s): set API_KEY for both, or "
            "XDG_STATE_HOME to a folder that can be written",
            error.strerror,
        )
        yield
        return
    try:
        yield
    finally:
        _remove(path, lock)


def find_key(port: int) -> str:
    """The key of the service that runs at `port`; empty if none has kept it."""
    try:
        with open(state_home() / FOLDER_NAME / FOLDER / str(port)) as file:
            return "" if _is_free(file.fileno()) else file.read()
    except (OSError, UnicodeError):
        return ""


def _keep(port: int, key: str) -> tuple[Path, int]:
    """Return the file, and the descriptor that locks it. Raises OSError."""
    path = private_dir(state_home(), FOLDER) / str(port)
    partial = path.with_name(f".{port}.{secrets.token_hex(8)}")
    try:
        lock = private_opener(str(partial), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        os.write(lock, key.encode())
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        partial.replace(path)  # a file of this name is locked from the beginning
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    return path, lock


def _remove(path: Path, lock: int) -> None:
    """Remove the file, unless a later service has replaced it."""
    try:
        if os.path.samestat(path.stat(), os.fstat(lock)):
            path.unlink()
    except OSError as error:
        log.warning("the file with the key cannot be removed: %s", error)
    finally:
        os.close(lock)


def _is_free(descriptor: int) -> bool:
    """Whether no service holds the lock; closing the file gives it back."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
