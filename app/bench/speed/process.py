"""A process of its own for whatever is measured, so that nothing else is in its memory."""

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Protocol, TypeVar

from app.core.errors import EngineFailed
from app.core.native import kill_with_parent
from app.core.process_env import patched_environ

T = TypeVar("T")


class Run(Protocol):
    """Calls `work` in that process, and returns or raises what it does."""

    def __call__(self, work: Callable[..., T], *args: object) -> T: ...


@contextmanager
def process(**environment: str) -> Iterator[Run]:
    """One that lives until exit. Its calls raise `EngineFailed` when it dies."""
    with patched_environ(PYTHONWARNINGS="ignore", **environment):
        pool = ProcessPoolExecutor(1, get_context("spawn"), _begin)
        pool.submit(_begin).result()  # starts it
    with pool:

        def run(work: Callable[..., T], *args: object) -> T:
            try:
                return pool.submit(work, *args).result()
            except BrokenProcessPool:
                name = f"{work.__module__}.{work.__name__}"
                raise EngineFailed(f"the process died in {name}: out of memory?") from None

        yield run


def _begin() -> None:
    """It ends with the command, and on Ctrl-C without a word: the command says what there is."""
    kill_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
