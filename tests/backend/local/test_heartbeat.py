"""How long a worker has been stalled, by a clock that the test sets."""

import pytest

import app.backend.local.heartbeat as heartbeat_module
from app.backend.local.heartbeat import HeartbeatMonitor
from app.ipc.messages import Heartbeat


@pytest.mark.parametrize(
    ("moving", "working", "stalled_for_s"),
    [(True, 1, 0), (False, 0, 0), (False, 1, 8)],
    ids=["makes steps", "idle", "makes no step"],
)
def test_worker_is_stalled_if_it_works_without_making_steps(
    monkeypatch: pytest.MonkeyPatch, moving: bool, working: int, stalled_for_s: float
) -> None:
    now = 100.0
    monkeypatch.setattr(heartbeat_module, "monotonic", lambda: now)
    monitor = HeartbeatMonitor()
    for now in range(101, 110):
        monitor.beat(Heartbeat(now if moving else 5, working))
    assert monitor.stalled_for_s() == stalled_for_s


def test_worker_is_stalled_without_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 101.0
    monkeypatch.setattr(heartbeat_module, "monotonic", lambda: now)
    monitor = HeartbeatMonitor()
    monitor.beat(Heartbeat(5, 0))
    now = 107.0
    assert (monitor.stalled_for_s(), monitor.age_s()) == (6, 6)
