"""Detects a worker process that stopped sending heartbeats, or works without making steps."""

from time import monotonic

from app.ipc.messages import Heartbeat


class HeartbeatMonitor:
    """Watches one process, from its start or from the moment when it got ready."""

    def __init__(self) -> None:
        self._created_at = self._beat_at = self._step_at = monotonic()
        self.steps = -1

    def beat(self, heartbeat: Heartbeat) -> None:
        self._beat_at = monotonic()
        if heartbeat.steps != self.steps or not heartbeat.working:
            self.steps = heartbeat.steps
            self._step_at = self._beat_at

    def age_s(self) -> float:
        return monotonic() - self._created_at

    def stalled_for_s(self) -> float:
        """Seconds since the last heartbeat, or since the last step if one is due."""
        return monotonic() - min(self._beat_at, self._step_at)
