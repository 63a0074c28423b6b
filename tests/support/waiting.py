"""Wait for a condition."""

import asyncio
from collections.abc import Callable

PATIENCE_S = 60


async def until(condition: Callable[[], bool], poll_s: float = 0) -> None:
    """Poll the condition every `poll_s`; raises `TimeoutError` after a minute."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - nothing signals the condition
            await asyncio.sleep(poll_s)
