"""The environment of this process and of its children, and the cores it may use."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def visible_cuda_devices() -> str | None:
    """`CUDA_VISIBLE_DEVICES`, by which an operator keeps GPUs from this service."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def child_environment(**extra: str) -> dict[str, str]:
    """What a child process sees of this one's environment: all but the key, and `extra`."""
    return {name: value for name, value in os.environ.items() if name.upper() != "API_KEY"} | extra


def worker_thread_env(device: str, threads: int) -> dict[str, str]:
    """What an engine's libraries read on loading; `device` is `cpu` or `cuda`."""
    one_heap = {"MALLOC_ARENA_MAX": "1"} if device == "cpu" else {}  # idle memory is shared
    by_row = {"MKL_CBWR": "AUTO"}  # else a job's sums depend on the thread that its row falls to
    return {"OMP_NUM_THREADS": str(threads), **by_row, **one_heap}


@contextmanager
def patched_environ(**extra: str) -> Iterator[None]:
    """Inside, children started by whatever means see `child_environment(**extra)`."""
    before = dict(os.environ)
    try:
        _set_environment(child_environment(**extra))
        yield
    finally:
        _set_environment(before)


def _set_environment(variables: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)


def python_path(first: Path) -> str:
    """`PYTHONPATH` with `first` in front."""
    return os.pathsep.join(filter(None, (str(first), os.environ.get("PYTHONPATH"))))


def cpu_count() -> int:
    """The cores this process may use, which a container may have limited, or their time."""
    return math.ceil(min(len(os.sched_getaffinity(0)), cpu_quota(CGROUP)))


def cpu_quota(cgroup: Path) -> float:
    """As many cores' time may be used at once, by version 2 of control groups or by 1; inf: all."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with suppress(OSError, ValueError):  # "max", too
            told = " ".join((cgroup / name).read_text() for name in names)
            quota, period = map(int, told.split())
            if quota > 0 and period > 0:
                return quota / period
    return math.inf
