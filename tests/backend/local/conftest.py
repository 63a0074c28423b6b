import asyncio

import pytest

from tests.backend.local.dispatcher_env import DispatcherEnv, FakeClock


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock(monkeypatch, asyncio.get_running_loop())


@pytest.fixture
async def env(clock: FakeClock) -> DispatcherEnv:
    """A dispatcher whose time stands still until `clock.forward`."""
    return DispatcherEnv()
