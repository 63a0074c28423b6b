"""Steps of one job, or of the preparation of one voice, counted wherever the work is done.

The worker sets `current` in the job's task; pipeline and engine call `step` in that context.
"""

import itertools
from contextvars import ContextVar

_steps = itertools.count(1)


class Progress:
    """`last_step`: when the latest step was made, as a number in the order of all steps."""

    def __init__(self) -> None:
        self.step()

    def step(self) -> None:
        """Count a unit of work, on any thread."""
        self.last_step = next(_steps)


current: ContextVar[Progress] = ContextVar("progress", default=Progress())  # noqa: B039


def step() -> None:
    """Count a unit of work of the current job or preparation."""
    current.get().step()
