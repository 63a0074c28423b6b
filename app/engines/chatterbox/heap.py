"""The heap of this process, which keeps what torch's tensors leave in it."""

import ctypes


def trim() -> None:
    """Hand free memory back to the system; not to be called where a millisecond counts.

    Else the largest results of every moment stay taken between those that are still needed.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc
        libc.malloc_trim(0)
