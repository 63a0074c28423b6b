"""The figures that a machine with a GPU is measured for, and what they should be."""

from dataclasses import dataclass
from typing import Any

NOT_MEASURED = "not measured"

TITLES = {"turbo": "Turbo", "chatterbox": "original"}

STREAM_MEMORY_GB, WORKER_MEMORY_GB = 0.15, 3.0


@dataclass(frozen=True)
class Target:
    """What a figure should be: at most `limit` or, if `at_least`, no less."""

    limit: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"


FIGURES = {
    "first_audio_p50_ms": "First audio of one stream, p50, ms",
    "first_audio_p95_ms": "First audio of one stream, p95, ms",
    "real_time_factor": "Real-time factor of one stream",
    "first_audio_32_p50_ms": "First audio of 32 streams, p50, ms",
    "first_audio_32_p95_ms": "First audio of 32 streams, p95, ms",
    "times_real_time_32": "Audio of 32 streams, × real time",
    "paced_streams": "Streams in real time without an underrun",
    "t3_step_ms": "T3, ms a token",
    "first_slice_ms": "S3Gen, first slice, ms",
    "worker_memory_gb": "Memory with a worker of 32 slots, GB",
}
"""All rows of the table, in order."""

SLOTS = 32

MEMORY = Target(WORKER_MEMORY_GB + STREAM_MEMORY_GB * SLOTS)

TARGETS: dict[str, dict[str, Target]] = {
    "turbo": {
        "first_audio_p95_ms": Target(35),
        "real_time_factor": Target(0.02),
        "first_audio_32_p95_ms": Target(80),
        "paced_streams": Target(300, at_least=True),
        "worker_memory_gb": MEMORY,
    },
    "chatterbox": {
        "first_audio_p95_ms": Target(60),
        "real_time_factor": Target(0.05),
        "first_audio_32_p95_ms": Target(200),
        "paced_streams": Target(120, at_least=True),
        "worker_memory_gb": MEMORY,
    },
}


def rows(measured: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """A row for each model and figure, with "not measured" in place of what is missing."""
    found = []
    for model, title in TITLES.items():
        for name, label in FIGURES.items():
            value, target = measured.get(model, {}).get(name), TARGETS[model].get(name)
            met = None if value is None or target is None else target.met(value)
            found.append(
                {
                    "model": title,
                    "figure": label,
                    "value": NOT_MEASURED if value is None else value,
                    "target": str(target) if target else "–",
                    "met": met,
                }
            )
    return found
