"""Waiting for what a test expects, and no longer."""

import asyncio
from collections.abc import Callable

PATIENCE_S = 60


async def until(condition: Callable[[], bool], poll_s: float = 0) -> None:
    """Look again whenever the event loop has had a turn; `TimeoutError` after a minute."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - of what is awaited here, nobody tells
            await asyncio.sleep(poll_s)
