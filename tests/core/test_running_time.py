import pytest

import app.core.running_time as running_time_module
from app.core.running_time import RunningTime


def test_time_of_a_suspended_process_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(running_time_module, "monotonic", lambda: now)
    clock = RunningTime()
    began = clock()
    for seconds in (0.5, 1, 1.5, 100, 0.5, 100):
        now += seconds
        clock()
    assert clock() - began == 3.5
