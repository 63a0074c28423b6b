import asyncio
import time

import pytest

from app.observability.loop_watchdog import watch_loop


def sleep_on_the_loop() -> None:
    time.sleep(1)


async def test_what_holds_the_event_loop_is_logged_with_its_stack(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lags: list[float] = []
    with watch_loop(lags.append):
        await asyncio.sleep(0.25)
        sleep_on_the_loop()
        await asyncio.sleep(0.25)
    assert max(lags) > 0.8
    assert "sleep_on_the_loop" in caplog.text
    assert "the event loop was held for" in caplog.text


async def test_an_idle_loop_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    lags: list[float] = []
    with watch_loop(lags.append):
        await asyncio.sleep(0.35)
    assert len(lags) >= 2
    assert "time.sleep" not in caplog.text
