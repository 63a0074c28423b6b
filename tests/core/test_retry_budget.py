"""Failures counted per key, with and without a time window."""

import pytest

from app.core.retry_budget import RetryBudget


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_is_exhausted_at_the_limit(clock: Clock) -> None:
    budget = RetryBudget[str](2, clock=clock)
    assert not budget.exhausted("a")
    budget.record("a")
    assert not budget.exhausted("a")
    clock.now = 1e9  # without a window, failures never expire
    budget.record("a")
    assert budget.exhausted("a")
    assert (budget.count("a"), budget.count("b")) == (2, 0)


def test_keys_are_counted_and_cleared_separately(clock: Clock) -> None:
    budget = RetryBudget[str](1, clock=clock)
    budget.record("a")
    assert (budget.exhausted("a"), budget.exhausted("b")) == (True, False)
    budget.record("b")
    budget.clear("a")
    budget.clear("never recorded")
    assert (budget.exhausted("a"), budget.exhausted("b")) == (False, True)


def test_failures_expire_after_the_window(clock: Clock) -> None:
    budget = RetryBudget[str](2, window_s=60, clock=clock)
    budget.record("a")
    clock.now = 30.0
    budget.record("a")
    assert budget.exhausted("a")
    clock.now = 59.9
    assert budget.exhausted("a")
    clock.now = 60.0  # the first one is out of the window
    assert budget.count("a") == 1
    assert not budget.exhausted("a")
    clock.now = 90.0
    assert budget.count("a") == 0


def test_more_failures_than_the_limit_keep_it_exhausted(clock: Clock) -> None:
    budget = RetryBudget[str](2, window_s=60, clock=clock)
    for second in range(5):
        clock.now = float(second)
        budget.record("a")
    assert budget.count("a") == 2
    clock.now = 62.9  # only the last two count: of seconds 3 and 4
    assert budget.exhausted("a")
    clock.now = 63.0
    assert not budget.exhausted("a")
