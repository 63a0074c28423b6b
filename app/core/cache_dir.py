"""Private folders in the user's cache folder, for what took time to compute."""

import logging
import os
import stat
from pathlib import Path

from app.core.process_env import cache_home, is_set, set_variable

log = logging.getLogger(__name__)


def private_cache_dir(name: str) -> Path:
    """Return a folder that only this user can enter.

    Raises OSError if there is none: no home folder, not writable, or another user's.
    """
    folder = cache_home() / "chatterbox-tts-server" / name
    if not folder.is_absolute():
        raise FileNotFoundError(0, "there is no home folder")
    folder.parent.parent.mkdir(parents=True, exist_ok=True)
    for each in (folder.parent, folder):
        each.mkdir(mode=0o700, exist_ok=True)
        found = each.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(0, "it belongs to another user")
        each.chmod(0o700)
    return folder


def keep_kernels_private() -> None:
    """Have PyTorch keep compiled kernels where other users cannot prepare them, unlike in /tmp.

    To be called before PyTorch compiles. Leaves a folder that the operator has set.
    """
    if not is_set("TORCHINDUCTOR_CACHE_DIR"):
        try:
            set_variable("TORCHINDUCTOR_CACHE_DIR", str(private_cache_dir("inductor")))
        except OSError as error:
            log.warning("compiled kernels are kept in /tmp: %s", error.strerror)
