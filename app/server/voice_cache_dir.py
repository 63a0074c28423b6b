"""The folder that keeps decoded voices from one start of the service to the next."""

import fcntl
import hashlib
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from app.core.blocking_thread import BlockingThread
from app.core.cache_dir import private_cache_dir
from app.voices.decoded_audio import FORMAT

log = logging.getLogger(__name__)

MAX_OPERATION_S = 5.0
"""A cache folder that has not answered by then is not used."""

KEPT_S = 30 * 24 * 3600.0
"""The folder of a service that has not been started for so long is removed."""


@asynccontextmanager
async def voice_cache_dir(voices_dir: Path, fallback: Path) -> AsyncIterator[Path]:
    """Yield a private folder in the user's cache folder for the voices of `voices_dir`, locked.

    If there is none, or another service has it: `fallback`, whose content need not be kept.
    """
    thread = BlockingThread("voice cache", "the cache folder", MAX_OPERATION_S)
    try:
        try:
            folder, lock = await thread.run(_open, voices_dir)
        except OSError as error:
            log.warning(
                "decoded voices will not outlive the service: %s; XDG_CACHE_HOME may name a folder "
                "of its own for them",
                error.strerror,
            )
            yield fallback
            return
        try:
            yield folder
        finally:
            with suppress(TimeoutError):  # the process is about to exit anyway
                await thread.run(os.close, lock)
    finally:
        thread.close()


def folder_name(voices_dir: Path) -> str:
    digest = hashlib.sha256(os.fsencode(voices_dir.absolute())).hexdigest()
    return f"voices-{FORMAT}-{digest[:12]}"


def _open(voices_dir: Path) -> tuple[Path, int]:
    """Return the folder, and a descriptor that locks it. Raises OSError."""
    folder = private_cache_dir(folder_name(voices_dir))
    lock = _lock(folder)
    os.utime(folder)
    for unfinished in folder.glob(".*"):  # of a service that was killed
        unfinished.unlink(missing_ok=True)
    for other in _abandoned(folder):
        log.info("removing the decoded voices in %s", other)
        shutil.rmtree(other, ignore_errors=True)
    return folder, lock


def _abandoned(folder: Path) -> Iterator[Path]:
    """Folders in another format, and of services that are no longer used; locked while yielded."""
    current = f"voices-{FORMAT}-"
    for other in folder.parent.glob("voices-*"):
        if not other.name.startswith(current) or time.time() - other.lstat().st_mtime > KEPT_S:
            try:
                lock = _lock(other)
            except OSError:
                continue  # its service is running
            yield other
            os.close(lock)


def _lock(folder: Path) -> int:
    """Return a descriptor that holds the lock. Raises OSError."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(held)
        raise OSError(error.errno, "another service uses it") from None
    return held
