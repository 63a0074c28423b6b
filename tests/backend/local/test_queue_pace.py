import pytest

from app.backend.local.queue_pace import LONGEST_S, QueuePace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def pace_of(*starts_s: float, now: float) -> QueuePace:
    """Return the pace after jobs that waited since 0 s were started at these times."""
    clock = Clock()
    pace = QueuePace(clock)
    clock.now = 0.0
    pace.job_queued()
    for clock.now in starts_s:
        pace.job_queued()
        pace.job_started()
    clock.now = now
    return pace


@pytest.mark.parametrize(
    ("starts_s", "now", "waiting", "seconds"),
    [
        ([2, 4, 6], 6, 1, 2),  # the next start
        ([2, 4, 6], 6, 30, 2),  # all of them within the time that a job may wait
        ([2, 4, 6], 6, 40, 20),  # 80 s, of which a job may wait 60
        ([0.1, 0.2, 0.3], 0.3, 100, 1),
        ([10, 20], 50, 1, 25),  # it has slowed down
        ([], 12, 1, 12),  # no start yet
        ([30, 60], 60, 100, LONGEST_S),
    ],
)
def test_retry_after_follows_the_pace_of_the_queue(
    starts_s: list[float], now: float, waiting: int, seconds: int
) -> None:
    assert pace_of(*starts_s, now=now).retry_after_s(waiting, 60) == seconds


def test_old_starts_do_not_count() -> None:
    slow = [100.0 * number for number in range(1, 20)]
    fast = [1900.0 + number for number in range(1, QueuePace.MEASURED_STARTS + 2)]
    assert pace_of(*slow, *fast, now=fast[-1]).retry_after_s(1, 60) == 1


def test_time_in_which_nothing_waits_does_not_count() -> None:
    pace = pace_of(2, 4, now=1000)
    pace.queue_emptied()
    assert pace.retry_after_s(0, 60) is None
    pace.job_queued()
    assert pace.retry_after_s(1, 60) == 1
