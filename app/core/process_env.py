"""Environment variables of this process and its children."""

import os
import sys
from pathlib import Path


def visible_cuda_devices() -> str | None:
    """`CUDA_VISIBLE_DEVICES`, which restricts the service to some GPUs."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def cache_home() -> Path:
    """The user's folder for caches (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))


def state_home() -> Path:
    """The user's folder for what a program keeps while it runs, and later."""
    usual = "~/Library/Application Support" if sys.platform == "darwin" else "~/.local/state"
    return Path(os.environ.get("XDG_STATE_HOME") or os.path.expanduser(usual))


def is_set(name: str) -> bool:
    return name in os.environ


def set_variable(name: str, value: str) -> None:
    os.environ[name] = value


def child_environment(**extra: str) -> dict[str, str]:
    """This process's environment without the API key, and `extra`."""
    return {name: value for name, value in os.environ.items() if name.upper() != "API_KEY"} | extra


def worker_thread_env(device: str, threads: int) -> dict[str, str]:
    """Variables that an engine's libraries read on loading; `device` is `cpu` or `cuda`.

    On a CPU, OpenMP's threads sleep while they wait for each other. By default they spin, and so
    keep a core from T3, from other processes, and from the very thread that they wait for.
    """
    variables = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_CBWR": "AUTO",  # makes results independent of how rows are divided among threads
    }
    if device == "cpu":
        variables["MALLOC_ARENA_MAX"] = "1"  # threads share the memory that is idle
        variables["OMP_WAIT_POLICY"] = "PASSIVE"
    return variables


def python_path(first: Path) -> str:
    """`PYTHONPATH` with `first` in front."""
    return os.pathsep.join(filter(None, (str(first), os.environ.get("PYTHONPATH"))))
