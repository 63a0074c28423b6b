import threading
from time import monotonic

import pytest

from app.observability import system_stats


async def test_a_driver_that_hangs_delays_nobody_for_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = threading.Event()
    monkeypatch.setattr(system_stats, "_gpu_load", lambda: [] if answers.wait(20) else None)
    monkeypatch.setattr(system_stats, "MAX_DRIVER_S", 0.2)
    system_stats._driver.cache_clear()
    try:
        started_at = monotonic()
        for _ in range(20):
            assert await system_stats.gpu_load() == []
        assert monotonic() - started_at < 5
        assert "NVIDIA's driver: it has not answered for 0.2 s" in caplog.text
    finally:
        answers.set()
        system_stats._driver.cache_clear()
