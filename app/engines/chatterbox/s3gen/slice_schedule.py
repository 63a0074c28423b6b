"""The slice schedule: how many speech tokens are turned into audio at a time.

With every slice S3Gen solves the prompt and the text chunk so far again. So the first slice is
short, for latency, and on a CPU each is longer than the one before. Lengths never depend on timing,
so that a seed always gives the same audio.
"""

from collections.abc import Iterator

from app.core.engine_config import ChatterboxOptions


def slice_lengths(unit: int, options: ChatterboxOptions, chunk_index: int) -> Iterator[int]:
    """Yield the slice lengths of a job's text chunk, in speech tokens, without end."""
    if chunk_index == 0:  # during later ones audio is playing already
        yield min(options.first_slice_tokens or unit, unit)
    length = unit * options.slice_growth
    while True:
        yield int(length)
        length *= options.slice_growth
