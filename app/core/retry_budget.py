"""Count failures per key, up to a limit."""

from collections import defaultdict, deque
from collections.abc import Callable, Hashable
from time import monotonic
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class RetryBudget(Generic[Key]):
    """Allows fewer than `limit` failures per key: all that were recorded, or the recent ones.

    With `window_s`, a failure counts for that many seconds by `clock`.
    """

    def __init__(
        self,
        limit: int,
        window_s: float | None = None,
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._limit = limit
        self._window_s = window_s
        self._clock = clock
        self._failures: defaultdict[Key, deque[float]] = defaultdict(
            lambda: deque(maxlen=limit)  # older ones make no difference
        )

    def record(self, key: Key) -> None:
        """Count a failure of `key`, now."""
        self._failures[key].append(self._clock())

    def count(self, key: Key) -> int:
        """The failures of `key` that count now, at most `limit`."""
        failures = self._failures.get(key)
        if failures is None:
            return 0
        if self._window_s is not None:
            oldest = self._clock() - self._window_s
            while failures and failures[0] <= oldest:
                failures.popleft()
        if not failures:
            del self._failures[key]
        return len(failures)

    def exhausted(self, key: Key) -> bool:
        return self.count(key) >= self._limit

    def clear(self, key: Key) -> None:
        """Forget the failures of `key`."""
        self._failures.pop(key, None)
