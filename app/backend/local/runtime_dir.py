"""The private runtime directory of one running service: sockets, and voices that are not kept.

It is locked while the service runs, so that the next service on the same host can tell which
directories were left behind by killed ones, and remove them.
"""

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from app.core.errors import StartupError

log = logging.getLogger(__name__)

PREFIX = "chatterbox-tts-"
MAX_PATH_BYTES = 80
"""The path of a Unix socket may have 107 bytes, file name included."""


@dataclass(frozen=True)
class RuntimeDir:
    """Two directories of mode 0700. `voices` may be replaced by one that outlives the service."""

    channels: Path
    voices: Path


@contextmanager
def runtime_dir() -> Iterator[RuntimeDir]:
    """Create the directory on entry, remove it on exit. Raises `StartupError` if that fails."""
    _remove_abandoned(Path(tempfile.gettempdir()))
    try:
        root = Path(tempfile.mkdtemp(prefix=PREFIX))
        if len(os.fsencode(root)) > MAX_PATH_BYTES:
            root.rmdir()
            raise StartupError(f"the temporary folder's path is too long for sockets: {root}")
        lock = os.open(root / "unlocked", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        (root / "unlocked").rename(root / "lock")  # a file `lock` is locked from the beginning
        directory = RuntimeDir(root, root / "voices")
        directory.voices.mkdir()
        held = os.open(root, os.O_RDONLY)
        with suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_SH)  # keeps systemd-tmpfiles from removing old files
    except OSError as error:
        raise StartupError(f"no temporary folder can be made: {error}") from None
    try:
        yield directory
    finally:
        shutil.rmtree(root, ignore_errors=True)
        os.close(held)
        os.close(lock)


def _remove_abandoned(parent: Path) -> None:
    for root in parent.glob(f"{PREFIX}*"):
        try:
            lock = os.open(root / "lock", os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue  # another user's, or just being created or removed
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # its service is running
        else:
            log.info("removing the directory of a killed service: %s", root)
            shutil.rmtree(root, ignore_errors=True)
        finally:
            os.close(lock)
