"""What a measurement of the engine came to: values only, for `tables`, `picture` and JSON."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Measured:
    """One figure, over the rounds or the jobs."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Measured":
        """Of one value at least."""
        known = list(values)
        return cls(median(known), min(known), max(known))


@dataclass(frozen=True)
class Own:
    """This engine's figures. `slices_s`: what S3Gen takes for each slice, waiting for nobody.

    `stages_s`: of a whole job, in the order in which its data passes through them.
    """

    first_audio_s: Measured
    total_s: Measured
    real_time_factor: Measured
    t3_tokens_per_s: Measured
    slices_s: list[Measured]
    stages_s: dict[str, Measured]
    memory_gb: float


@dataclass(frozen=True)
class Package:
    """The package's figures, those of this engine beside them, round by round, and what was the
    same.

    `tokens_same`: so many, of all, before one differed. `difference_db`: of S3Gen's waveform for
    the same tokens. `correlation`: of the streams' spectra, or None where the
    engine is not meant to say the same.
    """

    total_s: Measured
    real_time_factor: Measured
    memory_gb: float
    first_audio_ratio: Measured
    total_ratio: Measured
    tokens_same: int
    difference_db: float
    correlation: Measured | None


@dataclass(frozen=True)
class AtOnce:
    """Several jobs at once. `same`: so many said what they say alone. `t3_ratio`: the time of all
    for T3 as a multiple of one job's.
    """

    jobs: int
    same: int
    t3_s: float
    t3_ratio: float
    first_audio_s: Measured
    total_s: float
    times_real_time: float


@dataclass(frozen=True)
class LongText:
    """Two text chunks of a long text, equally long: an early one and a late one."""

    early: int
    late: int
    early_s: float
    late_s: float
    ratio: float
    early_memory_gb: float
    late_memory_gb: float


@dataclass(frozen=True)
class Report:
    """All of it, with what it was measured on."""

    machine: dict[str, str | int]
    settings: dict[str, Any]
    own: Own
    package: Package | None
    at_once: list[AtOnce]
    long_text: LongText | None

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
