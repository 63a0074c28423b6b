"""What only the C library can do for this process. Each does nothing where the library cannot."""

import ctypes
import signal
import sys

_libc = ctypes.CDLL(None)
_GLIBC = hasattr(_libc, "malloc_trim")

PR_SET_PDEATHSIG = 1  # of prctl(2)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
KEPT_BYTES = 16_777_216
LARGE_BLOCK_BYTES = 1_048_576
"""Well above the 256 KB in which asyncio reads a socket each time."""


def kill_with_parent() -> None:
    """The kernel kills this process when its parent's thread that started it ends (Linux)."""
    if sys.platform == "linux":
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def trim_heap() -> None:
    """Hand free memory back to the system; not to be called where a millisecond counts.

    Else the largest results of every moment stay taken between those that are still needed.
    """
    if _GLIBC:
        _libc.malloc_trim(0)


def limit_retained_memory() -> None:
    """From now on as soon as they are free: else each thread that had one keeps it."""
    if _GLIBC:
        _libc.mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        _libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)  # which would no longer adapt by itself
