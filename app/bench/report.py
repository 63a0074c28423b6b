"""The figures of `bench engine` and their tables; names are those of the JSON file."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.table import Table

Figures = dict[str, Any]
"""Numbers, and `Summary` where a figure was measured several times."""


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

    def __str__(self) -> str:
        if self.least == self.most:
            return f"{self.median:.3g}"
        return f"{self.median:.3g} ({self.least:.3g}–{self.most:.3g})"


def summarize(rounds: Sequence[Any]) -> Any:
    """Replace each number by its `Summary` over the rounds, whose figures are named alike.

    None stays, in place of a number or of figures.
    """
    match rounds[0]:
        case None:
            return None
        case dict(first):
            return {name: summarize([each[name] for each in rounds]) for name in first}
        case list():
            return [summarize(of_all) for of_all in zip(*rounds, strict=True)]
    return Summary.of(rounds)


@dataclass(frozen=True)
class Report:
    """All figures, with the machine and the settings they were measured with.

    `own` are this engine's, `package` upstream's with this engine's as a ratio to them, the number
    of tokens before the first difference, the difference of S3Gen's waveforms for the same tokens,
    and the correlation of the streams' spectra where they are meant to be equal. `at_once` has an
    entry for each number of concurrent jobs.
    """

    machine: Figures
    settings: Figures
    own: Figures
    package: Figures | None
    at_once: list[Figures]
    long_text: Figures | None

    def tables(self) -> Iterator[Table]:
        yield _settings(self.machine | self.settings)
        yield _latency(self.own, self.package)
        yield _stages(self.own)
        if rates := self.own["arithmetic"]:
            yield _arithmetic(rates)
        if self.at_once:
            yield _at_once(self.at_once)
        if self.long_text:
            yield _long_text(self.long_text)


def _settings(values: Figures) -> Table:
    table = Table(title="Measured on, with", show_header=False)
    for name, value in values.items():
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        table.add_row(name.replace("_", " "), shown)
    return table


def _latency(own: Figures, package: Figures | None) -> Table:
    """`generate` returns all audio at once, so its first audio comes with its last."""
    table = Table("", "this engine", title="Median (least–most)")
    rows = [
        ["first audio, s", own["first_audio_s"]],
        ["all of it, s", own["total_s"]],
        ["real-time factor", own["real_time_factor"]],
        ["T3, ms a token", own["t3_ms_per_token"]],
        ["S3Gen, s", Summary.of([sum(seconds.median for seconds in own["slices_s"])])],
        ["peak memory, GB", f"{own['memory_gb']:.2f}"],
    ]
    if package:
        table.add_column("generate")
        table.add_column("of generate's total")
        rows[0] += [package["total_s"], package["first_audio_ratio"]]
        rows[1] += [package["total_s"], package["total_ratio"]]
        rows[2] += [package["real_time_factor"]]
        rows[3] += [package["t3_ms_per_token"]]
        rows[4] += [package["s3gen_s"]]
        rows[5] += [f"{package['memory_gb']:.2f}"]
        table.caption = _equality(package)
    for row in rows:
        table.add_row(*map(str, row))
    return table


def _equality(package: Figures) -> str:
    tokens, difference_db = package["tokens_same"], package["difference_db"]
    text = f"{tokens} tokens as generate's, waveform {difference_db:.0f} dB"
    if correlation := package["correlation"]:
        text += f", streams correlated by {correlation.median:.2f}"
    return text


def _stages(own: Figures) -> Table:
    table = Table("stage, alone", "s", "share", title="One job")
    total_s = sum(seconds.median for seconds in own["stages_s"].values())
    for stage, seconds in own["stages_s"].items():
        table.add_row(stage, str(seconds), f"{100 * seconds.median / total_s:.1f}%")
    table.add_section()
    for number, seconds in enumerate(own["slices_s"], 1):
        table.add_row(f"S3Gen, slice {number}", str(seconds))
    table.add_row("T3, tokens a second", str(own["t3_tokens_per_s"]))
    return table


def _arithmetic(rates: Figures) -> Table:
    table = Table("", "GFLOP/s", "share", title="Arithmetic in float32")
    table.add_row("product of 1024 × 1024 matrices", str(rates["matrix_product"]), "")
    for stage in ("flow", "vocoder"):
        table.add_row(stage, str(rates[stage]), str(rates[f"{stage}_share"]))
    return table


def _at_once(rows: list[Figures]) -> Table:
    table = Table(
        *("jobs", "same", "T3, s", "of one's", "first audio, s", "all of it, s", "× real time"),
        title="Several jobs at once; how many say the same as alone",
    )
    for row in rows:
        table.add_row(
            str(row["jobs"]),
            str(row["same"]),
            f"{row['t3_s']:.3g}",
            f"{row['t3_ratio']:.2f}",
            str(row["first_audio_s"]),
            f"{row['total_s']:.3g}",
            f"{row['times_real_time']:.3g}",
        )
    return table


def _long_text(figures: Figures) -> Table:
    table = Table("text chunk", "s", "memory after it, GB", title="A long text")
    for part in ("early", "late"):
        seconds, memory_gb = figures[f"{part}_s"], figures[f"{part}_memory_gb"]
        table.add_row(str(figures[part]), f"{seconds:.4g}", f"{memory_gb:.3f}")
    table.caption = f"{figures['late']} / {figures['early']}: {figures['ratio']:.3f}"
    return table
