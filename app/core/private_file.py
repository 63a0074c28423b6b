"""Create files that only their owner can read, and folders that only this user can enter."""

import os
import stat
from pathlib import Path

FOLDER_NAME = "chatterbox-tts-server"
"""In the user's folders for caches and for states."""


def private_opener(path: str, flags: int) -> int:
    """Open a file for `open`; a new one is for its owner only."""
    return os.open(path, flags, mode=0o600)


def private_dir(home: Path, name: str) -> Path:
    """Return a folder of this program in `home` that only this user can enter.

    Raises OSError if there is none: no home folder, not writable, or another user's.
    """
    folder = home / FOLDER_NAME / name
    if not folder.is_absolute():
        raise FileNotFoundError(0, "there is no home folder")
    home.mkdir(parents=True, exist_ok=True)
    for each in (folder.parent, folder):
        each.mkdir(mode=0o700, exist_ok=True)
        found = each.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(0, "it belongs to another user")
        each.chmod(0o700)
    return folder
