"""The figures of `bench engine`: plain values for `bench.tables`, `bench.plot` and JSON.

The field names are those of the JSON file.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Summary:
    """The median and range of one figure over the rounds or the jobs."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Summary":
        """Summarise at least one value."""
        values = list(values)
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True)
class EngineFigures:
    """This engine's figures.

    `slices_s`: S3Gen's time for each slice, alone. `stages_s`: the stages of one job in pipeline
    order.
    """

    first_audio_s: Summary
    total_s: Summary
    real_time_factor: Summary
    t3_tokens_per_s: Summary
    slices_s: list[Summary]
    stages_s: dict[str, Summary]
    memory_gb: float


@dataclass(frozen=True)
class UpstreamFigures:
    """The package's figures, this engine's as a ratio to them, and how equal the output was.

    `tokens_same`: tokens before the first difference. `difference_db`: of S3Gen's waveforms for the
    same tokens. `correlation`: of the streams' spectra; None where they are not meant to be equal.
    """

    total_s: Summary
    real_time_factor: Summary
    memory_gb: float
    first_audio_ratio: Summary
    total_ratio: Summary
    tokens_same: int
    difference_db: float
    correlation: Summary | None


@dataclass(frozen=True)
class ConcurrentFigures:
    """Several jobs at once.

    `same`: jobs whose tokens equal those of the same job alone. `t3_ratio`: T3's time for all jobs
    as a multiple of its time for one.
    """

    jobs: int
    same: int
    t3_s: float
    t3_ratio: float
    first_audio_s: Summary
    total_s: float
    times_real_time: float


@dataclass(frozen=True)
class LongTextFigures:
    """An early and a late text chunk, equally long, of a long text."""

    early: int
    late: int
    early_s: float
    late_s: float
    ratio: float
    early_memory_gb: float
    late_memory_gb: float


@dataclass(frozen=True)
class Report:
    """All figures, with the machine and the settings they were measured with."""

    machine: dict[str, str | int]
    settings: dict[str, Any]
    own: EngineFigures
    package: UpstreamFigures | None
    at_once: list[ConcurrentFigures]
    long_text: LongTextFigures | None

    def as_dict(self) -> dict[str, Any]:
        """Return all fields for JSON."""
        return asdict(self)
