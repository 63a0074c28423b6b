"""What torch says of a device that is full or broken, told in the project's own errors.

It has no type of its own for most of it, so messages are looked at. Used by `engine` around
everything that computes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from app.core.errors import DeviceFailed, OutOfMemory

FULL = ("out of memory", "can't allocate memory", "ALLOC_FAILED", "ALLOCATION_FAILED")
BROKEN = (
    *("CUDA error", "CUDA driver error", "Triton Error [CUDA]"),
    *("CUBLAS_STATUS", "CUDNN_STATUS", "cuFFT error"),
)
"""After most of these the process's CUDA context is lost; of the others nobody can tell."""


@contextmanager
def device_faults() -> Iterator[None]:
    """Raises `OutOfMemory` or `DeviceFailed` for an error of torch's that means one of them."""
    try:
        yield
    except RuntimeError as error:
        if fault := device_fault(error):
            raise fault from error
        raise


def device_fault(error: RuntimeError) -> OutOfMemory | DeviceFailed | None:
    """What torch's error says of the device; None if it is no matter of the device."""
    message = str(error)
    if any(sign in message for sign in FULL):
        return OutOfMemory("the device has no memory left for this request")
    if any(sign in message for sign in BROKEN):
        return DeviceFailed(message.partition("\n")[0])
    return None
