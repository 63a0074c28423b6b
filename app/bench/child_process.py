"""A child process for one measured program, so that its memory contains nothing else."""

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Protocol, TypeVar
from unittest import mock

from app.core.errors import EngineFailed
from app.core.native import kill_with_parent
from app.core.process_env import child_environment

T = TypeVar("T")


class Run(Protocol):
    """Call `work` in the child process, and return or raise its outcome."""

    def __call__(self, work: Callable[..., T], *args: object) -> T: ...


@contextmanager
def child_process(**environment: str) -> Iterator[Run]:
    """Start a process that lives until exit; calls raise `EngineFailed` once it has died."""
    variables = child_environment(PYTHONWARNINGS="ignore", **environment)
    with mock.patch.dict("os.environ", variables, clear=True):
        pool = ProcessPoolExecutor(1, get_context("spawn"), _initialize)
        pool.submit(_initialize).result()  # starts the process
    with pool:

        def run(work: Callable[..., T], *args: object) -> T:
            try:
                return pool.submit(work, *args).result()
            except BrokenProcessPool:
                name = f"{work.__module__}.{work.__name__}"
                raise EngineFailed(f"the process died in {name}: out of memory?") from None

        yield run


def _initialize() -> None:
    """End with the command, and on Ctrl-C without a traceback."""
    kill_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
