"""The report of a soak: one line of figures, then one for each violation."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from app.bench.load import Percentiles
from tests.soak.leak_checks import Footprint

MAX_SHOWN = 20


@dataclass
class Report:
    """Filled while the soak runs. `latencies_s` are those of complete short responses."""

    seconds: float
    outcomes: Counter[str] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    kills: int = 0
    retries: int = 0
    before: Footprint | None = None
    after: Footprint | None = None
    violations: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return self.outcomes.total()

    def lines(self) -> Iterator[str]:
        yield ", ".join(self._figures())
        yield from self.violations[:MAX_SHOWN]
        if len(self.violations) > MAX_SHOWN:
            yield f"… and {len(self.violations) - MAX_SHOWN} more"

    def _figures(self) -> Iterator[str]:
        ended = ", ".join(f"{count} {outcome}" for outcome, count in self.outcomes.most_common())
        yield f"soak of {self.seconds:g} s: {self.requests} requests ({ended})"
        yield f"{self.kills} workers killed"
        yield f"{self.retries} jobs retried"
        if latency := Percentiles.of(self.latencies_s):
            yield f"short answers p50 {latency.p50:.0f} ms p99 {latency.p99:.0f} ms"
        if self.before and self.after:
            before, after = self.before, self.after
            yield f"memory {before.memory_mb:.1f} → {after.memory_mb:.1f} MB"
            yield f"descriptors {before.descriptors} → {after.descriptors}"
            yield f"threads {before.threads} → {after.threads}"
        yield f"{len(self.violations)} violations"
