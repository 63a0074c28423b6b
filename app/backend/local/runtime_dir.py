"""The private folder of one running master: its sockets and its decoded voices.

Its own, so that two masters on one host never meet; locked while its master lives, so that the
next one can tell what a killed one left behind, and remove it.
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
LONGEST_PATH = 80
"""A socket's path may have 107 bytes, its own name included."""


@dataclass(frozen=True)
class RuntimeFolder:
    """Where things lie; mode 0700."""

    channels: Path
    voices: Path


@contextmanager
def runtime_folder() -> Iterator[RuntimeFolder]:
    """Made on entry, removed on exit. Raises `StartupError` where no such folder can be."""
    _remove_abandoned(Path(tempfile.gettempdir()))
    try:
        root = Path(tempfile.mkdtemp(prefix=PREFIX))
        if len(os.fsencode(root)) > LONGEST_PATH:
            root.rmdir()
            raise StartupError(f"the temporary folder's path is too long for sockets: {root}")
        lock = os.open(root / "unlocked", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        (root / "unlocked").rename(root / "lock")  # whoever finds a lock finds it held
        folder = RuntimeFolder(root, root / "voices")
        folder.voices.mkdir()
        held = os.open(root, os.O_RDONLY)
        with suppress(OSError):
            fcntl.flock(
                held, fcntl.LOCK_SH
            )  # systemd-tmpfiles, which removes what is old, heeds it
    except OSError as error:
        raise StartupError(f"no temporary folder can be made: {error}") from None
    try:
        yield folder
    finally:
        shutil.rmtree(root, ignore_errors=True)
        os.close(held)
        os.close(lock)


def _remove_abandoned(where: Path) -> None:
    for root in where.glob(f"{PREFIX}*"):
        try:
            lock = os.open(root / "lock", os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue  # another user's, or one that is being made or removed at this moment
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # its master lives
        else:
            log.info("removing what a killed master left: %s", root)
            shutil.rmtree(root, ignore_errors=True)
        finally:
            os.close(lock)
