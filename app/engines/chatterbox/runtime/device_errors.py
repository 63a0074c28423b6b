"""Translate torch's device errors, mostly a plain `RuntimeError`, by their messages."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.core.errors import DeviceFailed, OutOfMemory

OOM_PATTERNS = ("out of memory", "can't allocate memory", "ALLOC_FAILED", "ALLOCATION_FAILED")
FATAL_PATTERNS = (
    *("CUDA error", "CUDA driver error", "Triton Error [CUDA]"),
    *("CUBLAS_STATUS", "CUDNN_STATUS", "cuFFT error"),
)
"""Most of these leave the CUDA context unusable; the others cannot be told apart from them."""


@contextmanager
def translate_device_errors() -> Iterator[None]:
    """Inside, a `RuntimeError` of the device becomes `OutOfMemory` or `DeviceFailed`."""
    try:
        yield
    except RuntimeError as error:
        if translated := _device_error(error):
            raise translated from error
        raise


def _device_error(error: RuntimeError) -> OutOfMemory | DeviceFailed | None:
    message = str(error)
    if any(pattern in message for pattern in OOM_PATTERNS):
        return OutOfMemory("the device has no memory left for this request")
    if any(pattern in message for pattern in FATAL_PATTERNS):
        return DeviceFailed(message.partition("\n")[0])
    return None
