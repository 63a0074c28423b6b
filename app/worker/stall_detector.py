"""Finds the job or voice of this worker that has made no step for longest.

Time is counted in heartbeats: a process that was suspended has sent none meanwhile.
"""

from collections.abc import Mapping
from typing import NamedTuple

from app.core.progress import Progress


class Work(NamedTuple):
    """What makes steps: a job, or the preparation of a voice."""

    job: str | None = None
    voice: str | None = None


class StallDetector:
    def __init__(self) -> None:
        self._seen: dict[Work, tuple[int, int]] = {}  # heartbeats since the last step, that step

    def beat(self, under_way: Mapping[Work, Progress]) -> tuple[int, Work]:
        """Return the longest time without a step, in heartbeats, and whose it is.

        `under_way`: all work that should be making steps now.
        """
        before, self._seen = self._seen, {}
        for work, progress in under_way.items():
            beats, last_step = before.get(work, (0, 0))
            same = progress.last_step == last_step
            self._seen[work] = (beats + 1 if same else 0, progress.last_step)
        if not self._seen:
            return 0, Work()
        # of several the one that stopped first: others may wait for it
        longest = max(self._seen, key=lambda work: (self._seen[work][0], -self._seen[work][1]))
        return self._seen[longest][0], longest
