"""Calls of the C library; each does nothing on systems that lack it."""

import ctypes
import mmap
import signal
import sys

_libc = ctypes.CDLL(None)
_GLIBC = hasattr(_libc, "malloc_trim")

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4  # of prctl(2)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
MAX_RETAINED_BYTES = 16_777_216
LARGE_BLOCK_BYTES = 1_048_576
"""Well above the 256 KB that asyncio reads from a socket at a time."""


def kill_with_parent() -> None:
    """Have Linux kill this process when the thread that started it ends."""
    if sys.platform == "linux":
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def hide_memory() -> None:
    """Let no process of the same user read this one's memory or environment; no core dumps."""
    if sys.platform == "linux":
        _libc.prctl(PR_SET_DUMPABLE, 0)


def trim_heap() -> None:
    """Return free memory to the system. Takes milliseconds.

    Otherwise free blocks stay allocated between those that are still in use.
    """
    if _GLIBC:
        _libc.malloc_trim(0)


def release_mapped_pages(begin: int, end: int) -> None:
    """Drop the unchanged pages of a mapped file at these addresses; they are read again when used.

    All pages that they touch must be of that file.
    """
    if sys.platform == "linux":
        begin -= begin % mmap.PAGESIZE
        _libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)


def limit_retained_memory() -> None:
    """Return large blocks to the system as soon as they are free, not kept for each thread."""
    if _GLIBC:
        _libc.mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        _libc.mallopt(M_TRIM_THRESHOLD, MAX_RETAINED_BYTES)  # it no longer adapts by itself
