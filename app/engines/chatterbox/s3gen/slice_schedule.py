"""Slices: how many speech tokens are turned into audio at a time; asked by the engine.

S3Gen solves the voice's prompt and all of the text chunk so far again with every slice, so what
makes speech late is the first slice's length and what makes it dear is the number of slices. Hence
a small first one, and then, on a CPU, ever longer ones. Lengths depend on a slice's index alone,
never on how fast things go: otherwise the same seed would not say the same.
"""

from collections.abc import Iterator

from app.core.engine_config import ChatterboxOptions


def slice_lengths(unit: int, tuning: ChatterboxOptions, chunk: int) -> Iterator[int]:
    """The lengths of the slices of a job's text chunk number `chunk`, in speech tokens, for ever.

    Only the first chunk begins with a small slice; when the others come, somebody listens already.
    """
    if chunk == 0:
        yield min(tuning.first_slice_tokens or unit, unit)
    length = unit * tuning.slice_growth
    while True:
        yield int(length)
        length *= tuning.slice_growth
