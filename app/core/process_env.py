"""Environment variables of this process and its children, and its CPU quota."""

import math
import os
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def visible_cuda_devices() -> str | None:
    """`CUDA_VISIBLE_DEVICES`, which restricts the service to some GPUs."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def child_environment(**extra: str) -> dict[str, str]:
    """This process's environment without the API key, and `extra`."""
    return {name: value for name, value in os.environ.items() if name.upper() != "API_KEY"} | extra


def worker_thread_env(device: str, threads: int) -> dict[str, str]:
    """Variables that an engine's libraries read on loading; `device` is `cpu` or `cuda`."""
    variables = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_CBWR": "AUTO",  # makes results independent of how rows are divided among threads
    }
    if device == "cpu":
        variables["MALLOC_ARENA_MAX"] = "1"  # threads share the memory that is idle
    return variables


def python_path(first: Path) -> str:
    """`PYTHONPATH` with `first` in front."""
    return os.pathsep.join(filter(None, (str(first), os.environ.get("PYTHONPATH"))))


def cpu_count() -> int:
    """The cores that this process may use, rounded up, within a container's limits."""
    return math.ceil(min(len(os.sched_getaffinity(0)), cpu_quota(CGROUP)))


def cpu_quota(cgroup: Path) -> float:
    """The number of cores that control groups (version 2 or 1) allow, infinity if unlimited."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with suppress(OSError, ValueError):  # ValueError also for "max"
            text = " ".join((cgroup / name).read_text() for name in names)
            quota, period = map(int, text.split())
            if quota > 0 and period > 0:
                return quota / period
    return math.inf
