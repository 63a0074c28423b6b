"""Measures how late the event loop runs its timers, and logs what held it for long, with its stack.

The stack is taken on another thread while the loop is still held. During a call into C that keeps
the interpreter's lock that is impossible, but mostly its caller is seen, just after the call.
"""

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

log = logging.getLogger(__name__)

INTERVAL_S = 0.1
MAX_LAG_S = 0.1
FRAMES = 8


class LoopWatchdog:
    """Calls `observe` with the lag in seconds, every `INTERVAL_S`, on the loop's thread."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._stopped = threading.Event()
        self._stack = ""
        self._due = monotonic() + INTERVAL_S
        self._timer = self._loop.call_later(INTERVAL_S, self._beat)

    def run(self) -> None:
        """Watch until `stop`. Blocks: it belongs into a thread."""
        while not self._stopped.wait(MAX_LAG_S / 2):
            if monotonic() - self._due > MAX_LAG_S and not self._stack:
                frame = sys._current_frames().get(self._loop_thread)
                frames = traceback.extract_stack(frame)[-FRAMES:]
                self._stack = " > ".join(f"{f.filename}:{f.lineno} {f.name}" for f in frames)

    def stop(self) -> None:
        self._timer.cancel()
        self._stopped.set()

    def _beat(self) -> None:
        lag = monotonic() - self._due
        self._observe(lag)
        if lag > MAX_LAG_S:
            log.warning("the event loop was held for %.3f s: %s", lag, self._stack or "-")
        self._stack = ""
        self._due = monotonic() + INTERVAL_S
        self._timer = self._loop.call_later(INTERVAL_S, self._beat)


@contextmanager
def watch_loop(observe: Callable[[float], None]) -> Iterator[None]:
    """Watch the running loop from a daemon thread."""
    watchdog = LoopWatchdog(observe)
    threading.Thread(target=watchdog.run, name="loop watchdog", daemon=True).start()
    try:
        yield
    finally:
        watchdog.stop()
