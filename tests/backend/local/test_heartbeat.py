"""How long a worker has been silent or without progress, by a clock that the test sets."""

import pytest

import app.backend.local.heartbeat as heartbeat_module
from app.backend.local.heartbeat import HeartbeatMonitor
from app.ipc.messages import Heartbeat


@pytest.mark.parametrize(("moving", "no_progress_for_s"), [(True, 0), (False, 8)])
def test_progress_is_a_step_or_a_phase(
    monkeypatch: pytest.MonkeyPatch, moving: bool, no_progress_for_s: float
) -> None:
    now = 100.0
    monkeypatch.setattr(heartbeat_module, "running_time", lambda: now)
    monitor = HeartbeatMonitor()
    for now in range(101, 110):
        monitor.beat(Heartbeat(now if moving else 5))
    assert monitor.silent_for_s() == 0
    assert monitor.no_progress_for_s() == no_progress_for_s
    monitor.progress()
    assert monitor.no_progress_for_s() == 0


def test_silence_begins_with_the_last_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 101.0
    monkeypatch.setattr(heartbeat_module, "running_time", lambda: now)
    monitor = HeartbeatMonitor()
    monitor.beat(Heartbeat(5))
    now = 107.0
    assert monitor.silent_for_s() == 6
