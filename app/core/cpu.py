"""The CPU cores that a container leaves to this process."""

import math
import os
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


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
