"""How much memory this process has taken: of the GPU if it computes there, else of the machine."""

import re
from pathlib import Path

import psutil
import torch


def peak_gb(device: str) -> float:
    """The most so far."""
    if device == "cuda":
        return torch.cuda.max_memory_reserved() / 1e9
    # Unlike getrusage's, this starts anew with each program.
    [kilobytes] = re.findall(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    return int(kilobytes) * 1024 / 1e9


def present_gb(device: str) -> float:
    """Right now."""
    if device == "cuda":
        return torch.cuda.memory_reserved() / 1e9
    return float(psutil.Process().memory_info().rss / 1e9)
