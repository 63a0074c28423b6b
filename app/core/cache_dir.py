"""Private folders in the user's cache folder, for what took time to compute."""

import logging
from pathlib import Path

from app.core.private_file import private_dir
from app.core.process_env import cache_home, is_set, set_variable

log = logging.getLogger(__name__)


def private_cache_dir(name: str) -> Path:
    """Return a folder that only this user can enter. Raises OSError, as `private_dir` does."""
    return private_dir(cache_home(), name)


def keep_kernels_private() -> None:
    """Have PyTorch keep compiled kernels where other users cannot prepare them, unlike in /tmp.

    To be called before PyTorch compiles. Leaves a folder that the operator has set.
    """
    if not is_set("TORCHINDUCTOR_CACHE_DIR"):
        try:
            set_variable("TORCHINDUCTOR_CACHE_DIR", str(private_cache_dir("inductor")))
        except OSError as error:
            log.warning("compiled kernels are kept in /tmp: %s", error.strerror)
