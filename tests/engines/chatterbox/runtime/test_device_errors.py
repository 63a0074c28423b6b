"""Error messages as torch's sources have them, and one that a CPU raises."""

import pytest
import torch

from app.core.errors import DeviceFailed, OutOfMemory
from app.engines.chatterbox.runtime.device_errors import translate_device_errors

OOM = [
    torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 3.00 GiB"
    ),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
]
FATAL = [
    RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be …"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(…)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("Triton Error [CUDA]: device-side assert triggered"),
    RuntimeError("CUDA driver error: an illegal memory access was encountered"),
]


def test_translates_failed_cpu_allocation_to_out_of_memory() -> None:
    with pytest.raises(OutOfMemory), translate_device_errors():
        torch.empty(1 << 60)


@pytest.mark.parametrize("error", OOM, ids=str)
def test_translates_full_device_to_out_of_memory(error: RuntimeError) -> None:
    with pytest.raises(OutOfMemory) as raised, translate_device_errors():
        raise error
    assert "GiB" not in raised.value.message  # it goes to the client


@pytest.mark.parametrize("error", FATAL, ids=str)
def test_translates_broken_device_to_one_line(error: RuntimeError) -> None:
    with pytest.raises(DeviceFailed, match=r"\A.+\Z"), translate_device_errors():
        raise error


def test_keeps_other_errors() -> None:
    for other in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("x")):
        with pytest.raises(type(other)) as raised, translate_device_errors():
            raise other
        assert raised.value is other
