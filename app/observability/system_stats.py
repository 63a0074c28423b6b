"""The load of the machine, in the JSON shape of `/system-status`. What blocks runs in a thread.

Memory is in bytes here, and in GiB in JSON, where it is called GB.
"""

import logging
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

import psutil
from pydantic import BaseModel, PlainSerializer

from app.core.blocking_thread import BlockingThread
from app.core.devices import handles, nvml_session

log = logging.getLogger(__name__)

GIB = 2**30
MAX_DRIVER_S = 2.0


def _gib(size: int) -> float:
    return round(size / GIB, 2)


Gb = Annotated[int, PlainSerializer(_gib)]


class Memory(BaseModel):
    total: Gb
    used: Gb
    free: Gb


class Ram(Memory):
    percent_used: float


class Cpu(BaseModel):
    utilization_percent: float
    ram_gb: Ram


class GpuUtilization(BaseModel):
    gpu: int
    memory: int


class Gpu(BaseModel):
    device_id: int
    utilization_percent: GpuUtilization
    memory_gb: Memory


@dataclass(frozen=True)
class Process:
    """CPU time since its start, in seconds; resident memory in bytes."""

    cpu_s: float
    memory: int


def cpu_load() -> Cpu:
    """Utilisation since the last call; memory that is not available counts as used."""
    memory = psutil.virtual_memory()
    used = memory.total - memory.available
    ram = Ram(total=memory.total, used=used, free=memory.available, percent_used=memory.percent)
    return Cpu(utilization_percent=psutil.cpu_percent(), ram_gb=ram)


async def gpu_load() -> list[Gpu]:
    """Every GPU of the machine that reports its load; empty without a driver, or if it hangs."""
    try:
        return await _driver().run(_gpu_load)
    except TimeoutError as error:
        log.warning("no load of GPUs: %s %s", error.filename, error.strerror)
        return []


@cache
def _driver() -> BlockingThread:
    return BlockingThread("nvml", "NVIDIA's driver:", MAX_DRIVER_S)


def _gpu_load() -> list[Gpu]:
    with nvml_session() as nvml:
        found = [_gpu(nvml, index, handle) for index, handle in handles(nvml)]
    return [gpu for gpu in found if gpu]


def process_load(pid: int) -> Process | None:
    """Returns None if the process no longer exists."""
    try:
        process = psutil.Process(pid)
        times, memory = process.cpu_times(), process.memory_info()
    except psutil.Error:
        return None
    return Process(times.user + times.system, memory.rss)


def _gpu(nvml: Any, index: int, handle: Any) -> Gpu | None:
    try:
        rates = nvml.nvmlDeviceGetUtilizationRates(handle)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError as error:  # a slice of a GPU, or a virtual one
        log.debug("gpu%d does not report its load: %s", index, error)
        return None
    return Gpu(
        device_id=index,
        utilization_percent=GpuUtilization(gpu=rates.gpu, memory=rates.memory),
        memory_gb=Memory(total=memory.total, used=memory.used, free=memory.free),
    )
