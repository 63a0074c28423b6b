"""The devices that workers run on: every visible GPU, or else the CPU.

GPUs are found with NVML, because the master never loads torch, and identified by UUID, because
NVML's order, by PCI bus as in `nvidia-smi`, differs from CUDA's own, the fastest first.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import pynvml

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """`name` is for display (`gpu0`, `cpu`); `uuid` is None for the CPU."""

    name: str
    kind: str  # "cuda" or "cpu"
    uuid: str | None = None

    def environment(self) -> dict[str, str]:
        """Variables that restrict a process to this device."""
        return {"CUDA_VISIBLE_DEVICES": self.uuid or ""}


CPU = Device("cpu", "cpu")


class Capacity(NamedTuple):
    """`free_mb`: of the device's memory. `core_mhz`: its cores times their highest clock."""

    free_mb: int
    core_mhz: int


def capacity(device: Device) -> Capacity | None:
    """What a GPU has at this moment; None if it does not say, as slices of GPUs do not."""
    with nvml_session() as nvml:
        if not (nvml and device.uuid):
            return None
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(device.uuid)
            free = nvml.nvmlDeviceGetMemoryInfo(handle).free
            cores = nvml.nvmlDeviceGetNumGpuCores(handle)
            clock = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)
        except nvml.NVMLError as error:
            log.warning("%s does not report its size: %s", device.name, error)
            return None
    return Capacity(free // 2**20, cores * clock)


def detect(visible: str | None) -> list[Device]:
    """All GPUs that `visible` (`CUDA_VISIBLE_DEVICES`: indices or UUIDs) allows; else the CPU.

    Indices are those of `nvidia-smi`; the log says which card each device is.
    """
    cards = {}
    with nvml_session() as nvml:
        for index, handle in handles(nvml):
            gpu = Device(f"gpu{index}", "cuda", nvml.nvmlDeviceGetUUID(handle))
            cards[gpu] = nvml.nvmlDeviceGetName(handle)
    allowed = _allowed([*cards], visible)
    for gpu in allowed:
        log.info("%s is %s, %s", gpu.name, cards.get(gpu, "a slice of a GPU"), gpu.uuid)
    if visible and cards and not allowed:
        log.warning("CUDA_VISIBLE_DEVICES=%s names no GPU of this machine: using the CPU", visible)
    return allowed or [CPU]


@contextmanager
def nvml_session() -> Iterator[Any]:
    """NVML, initialised; None where there is no driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        log.debug("no NVML: %s", error)
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def handles(nvml: Any) -> Iterator[tuple[int, Any]]:
    """Index and handle of each GPU that answers."""
    for index in range(nvml.nvmlDeviceGetCount() if nvml else 0):
        try:
            yield index, nvml.nvmlDeviceGetHandleByIndex(index)
        except nvml.NVMLError as error:
            log.error("gpu%d does not answer: %s", index, error)


def _allowed(gpus: list[Device], visible: str | None) -> list[Device]:
    if visible is None:
        return gpus
    chosen: list[Device] = []
    for entry in (part.strip() for part in visible.split(",")):
        match = next((gpu for gpu in gpus if _is(gpu, entry)), None)
        if entry.startswith("MIG-"):  # a slice of a GPU, which NVML lists elsewhere
            match = Device(f"mig{len(chosen)}", "cuda", entry)
        if match is None:
            break  # like CUDA, ignore everything after an invalid entry
        chosen.append(match)
    return chosen


def _is(gpu: Device, entry: str) -> bool:
    if entry.isdigit():
        return gpu.name == f"gpu{int(entry)}"
    return bool(entry) and (gpu.uuid or "").startswith(entry)
