"""The folder that keeps decoded voices from one start of the service to the next."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.core.cache_dir import private_cache_dir
from app.voices.decoded_audio import FORMAT

log = logging.getLogger(__name__)


@contextmanager
def voice_cache_dir(fallback: Path) -> Iterator[Path]:
    """Yield a private folder in the user's cache folder, locked for this service.

    If there is none, or another service has it: `fallback`, whose content need not be kept.
    """
    name = f"voices-{FORMAT}"
    try:
        folder = private_cache_dir(name)
        held = _lock(folder)
    except OSError as error:
        log.warning("decoded voices will not outlive the service: %s: %s", name, error.strerror)
        yield fallback
        return
    try:
        for unfinished in folder.glob(".*"):  # of a service that was killed
            unfinished.unlink(missing_ok=True)
        yield folder
    finally:
        os.close(held)


def _lock(folder: Path) -> int:
    """Return a descriptor that holds the lock. Raises OSError."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(held)
        raise OSError(error.errno, "another service uses it") from None
    return held
