"""Detects a worker process that is silent, does not get ready, or hangs in a job or a voice.

Times are measured by `running_time`: they do not grow while the backend itself is suspended.
"""

from app.core.running_time import running_time
from app.ipc.messages import Heartbeat


class HeartbeatMonitor:
    """Watches one process from its start."""

    def __init__(self) -> None:
        self.latest = Heartbeat(0)
        self._beat_at = self._progress_at = running_time()

    def beat(self, heartbeat: Heartbeat) -> None:
        if heartbeat.steps != self.latest.steps:
            self.progress()
        self.latest = heartbeat
        self._beat_at = running_time()

    def progress(self) -> None:
        """Note a step towards being ready."""
        self._progress_at = self._beat_at = running_time()

    def silent_for_s(self) -> float:
        """Seconds since the last heartbeat."""
        return running_time() - self._beat_at

    def no_progress_for_s(self) -> float:
        """Seconds since the last step of any kind."""
        return running_time() - self._progress_at
