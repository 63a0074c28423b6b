"""How long each stage took; stages may lie within others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter


class Clock:
    """Stages enter and leave in order, from one thread at a time.

    `settle()` returns when the device has done what it was told: it is called at every border, so
    that a stage is charged with its own work and nobody else's.
    """

    def __init__(self, settle: Callable[[], None]) -> None:
        self.seconds: dict[str, float] = {}
        self._settle = settle
        self._inner: list[float] = []  # for each stage that runs: seconds of those within it

    @contextmanager
    def runs(self, stage: str) -> Iterator[None]:
        """Inside, `stage` runs; adds its seconds, less those of stages inside."""
        self._settle()
        began = perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            self._settle()
            took = perf_counter() - began
            own = took - self._inner.pop()
            self.seconds[stage] = self.seconds.get(stage, 0.0) + own
            if self._inner:
                self._inner[-1] += took
