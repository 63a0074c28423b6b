"""Render a `Report` as tables for a terminal."""

from collections.abc import Iterator

from rich.table import Table

from app.bench.report import (
    ConcurrentFigures,
    EngineFigures,
    LongTextFigures,
    Report,
    Summary,
    UpstreamFigures,
)


def tables(report: Report) -> Iterator[Table]:
    yield _settings(report)
    yield _latency(report.own, report.package)
    yield _stages(report.own)
    if report.at_once:
        yield _at_once(report.at_once)
    if report.long_text:
        yield _long_text(report.long_text)


def _settings(report: Report) -> Table:
    table = Table(title="Measured on, with", show_header=False)
    for name, value in (report.machine | report.settings).items():
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        table.add_row(name.replace("_", " "), shown)
    return table


def _latency(own: EngineFigures, package: UpstreamFigures | None) -> Table:
    """`generate` returns all audio at once, so its first audio comes with its last."""
    table = Table("", "this engine", title="Median (least–most)")
    rows = [
        ["first audio, s", _text(own.first_audio_s)],
        ["all of it, s", _text(own.total_s)],
        ["real-time factor", _text(own.real_time_factor)],
        ["peak memory, GB", f"{own.memory_gb:.2f}"],
    ]
    if package:
        table.add_column("generate")
        table.add_column("of generate's total")
        total = _text(package.total_s)
        rows[0] += [total, _text(package.first_audio_ratio)]
        rows[1] += [total, _text(package.total_ratio)]
        rows[2] += [_text(package.real_time_factor)]
        rows[3] += [f"{package.memory_gb:.2f}"]
    for row in rows:
        table.add_row(*row)
    if package:
        table.caption = _equality(package)
    return table


def _equality(package: UpstreamFigures) -> str:
    text = f"{package.tokens_same} tokens as generate's, waveform {package.difference_db:.0f} dB"
    if package.correlation:
        text += f", streams correlated by {package.correlation.median:.2f}"
    return text


def _stages(own: EngineFigures) -> Table:
    table = Table("stage, alone", "s", "share", title="One job")
    total_s = sum(seconds.median for seconds in own.stages_s.values())
    for stage, seconds in own.stages_s.items():
        table.add_row(stage, _text(seconds), f"{100 * seconds.median / total_s:.1f}%")
    table.add_section()
    for number, seconds in enumerate(own.slices_s, 1):
        table.add_row(f"S3Gen, slice {number}", _text(seconds))
    table.add_row("T3, tokens a second", _text(own.t3_tokens_per_s))
    return table


def _at_once(rows: list[ConcurrentFigures]) -> Table:
    table = Table(
        *("jobs", "same", "T3, s", "of one's", "first audio, s", "all of it, s", "× real time"),
        title="Several jobs at once; how many say the same as alone",
    )
    for row in rows:
        table.add_row(
            str(row.jobs),
            str(row.same),
            f"{row.t3_s:.3g}",
            f"{row.t3_ratio:.2f}",
            _text(row.first_audio_s),
            f"{row.total_s:.3g}",
            f"{row.times_real_time:.3g}",
        )
    return table


def _long_text(row: LongTextFigures) -> Table:
    table = Table("text chunk", "s", "memory after it, GB", title="A long text")
    table.add_row(str(row.early), f"{row.early_s:.4g}", f"{row.early_memory_gb:.3f}")
    table.add_row(str(row.late), f"{row.late_s:.4g}", f"{row.late_memory_gb:.3f}")
    table.caption = f"{row.late} / {row.early}: {row.ratio:.3f}"
    return table


def _text(summary: Summary) -> str:
    if summary.least == summary.most:
        return f"{summary.median:.3g}"
    return f"{summary.median:.3g} ({summary.least:.3g}–{summary.most:.3g})"
