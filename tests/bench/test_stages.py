import pytest

from app.bench.stages import StageTimer


@pytest.mark.timed
def test_time_of_nested_stage_is_not_counted_twice() -> None:
    timer = StageTimer(lambda: None)
    with timer.stage("outer"):
        with timer.stage("inner"):
            busy = sum(range(2_000_000))
        with timer.stage("inner"):
            busy += sum(range(2_000_000))
    assert busy
    assert timer.seconds["inner"] > 20 * timer.seconds["outer"] > 0


def test_device_is_synchronized_at_both_ends() -> None:
    waits: list[None] = []
    timer = StageTimer(lambda: waits.append(None))
    with timer.stage("outer"), timer.stage("inner"):
        assert len(waits) == 2
    assert len(waits) == 4
