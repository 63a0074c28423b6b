"""Draw a `Report` as bar charts: time to first and last audio, and the time of each stage."""

import importlib.util
from typing import Any, BinaryIO

from app.bench.report import Report, Summary
from app.core.errors import StartupError

DARK, LIGHT, GREY = "#1f5fa8", "#a9c9ea", "#8a8a8a"
TEXT_COLOR, CAPTION_COLOR = "#222222", "#666666"
LABEL_ROOM = 0.5
"""Room for the label beside the longest bar, as a share of the axis."""


def check_matplotlib() -> None:
    """Raise `StartupError` if matplotlib is missing."""
    if not importlib.util.find_spec("matplotlib"):
        raise StartupError("--plot needs matplotlib: pip install 'chatterbox-tts-server[bench]'")


def draw(report: Report, file: BinaryIO) -> None:
    """Write a PNG of 1350 by 840 pixels to `file`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 10, "text.color": TEXT_COLOR}):
        figure = Figure(figsize=(9, 5.6), layout="constrained", facecolor="white")
        latency, stages = figure.subplots(2, 1, height_ratios=[2 if report.package else 1, 3])
        _draw_latency(latency, report)
        _draw_stages(stages, report)
        figure.suptitle(_headline(report), fontsize=13, fontweight="bold", x=0.01, ha="left")
        figure.supxlabel(_settings_line(report), fontsize=8, color=CAPTION_COLOR, x=0.01, ha="left")
        figure.savefig(file, format="png", dpi=150)


def _draw_latency(axes: Any, report: Report) -> None:
    """Draw a bar from the request to the last sample, dark until the first audible one."""
    first, total = report.own["first_audio_s"], report.own["total_s"]
    label = f"heard after {_text(first)}, all of it after {_text(total)}"
    _draw_bar(axes, "this engine", total, LIGHT, label)
    axes.barh("this engine", first.median, color=DARK)
    if report.package:
        seconds = report.package["total_s"]
        _draw_bar(axes, "generate", seconds, GREY, f"heard after {_text(seconds)}")
    _style_axes(axes, "Seconds since the request; dark until something is heard")


def _draw_stages(axes: Any, report: Report) -> None:
    stages = report.own["stages_s"]
    total_s = sum(seconds.median for seconds in stages.values())
    for stage, seconds in stages.items():
        label = f"{_text(seconds)}, {seconds.median / total_s:.0%}"
        _draw_bar(axes, stage, seconds, DARK, label)
    _style_axes(axes, "Seconds that each stage of a job takes alone")


def _draw_bar(axes: Any, row: str, seconds: Summary, color: str, label: str) -> None:
    """Draw a bar, a line over the range of the rounds, and a label beside both."""
    axes.barh(row, seconds.median, color=color)
    if seconds.most > seconds.least:
        axes.hlines(row, seconds.least, seconds.most, color=TEXT_COLOR, linewidth=1)
    end = (seconds.most, row)
    axes.annotate(label, end, xytext=(6, 0), textcoords="offset points", va="center")


def _style_axes(axes: Any, title: str) -> None:
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontsize=10, color=CAPTION_COLOR)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0)
    longest = axes.get_xlim()[1]
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= longest])
    axes.spines["bottom"].set_bounds(0, longest)
    axes.set_xlim(0, longest * (1 + LABEL_ROOM))


def _headline(report: Report) -> str:
    if not report.package:
        return f"First audio after {_text(report.own['first_audio_s'])}"
    first, total = (report.package[f"{part}_ratio"].median for part in ("first_audio", "total"))
    return f"First audio after {first:.0%} of generate's time, all of it after {total:.0%}"


def _settings_line(report: Report) -> str:
    machine, settings = report.machine, report.settings
    device = machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} threads"
    return (
        f"{device}; torch {machine['torch']}; weights: {settings['weights']}; "
        f"{settings['tokens']} tokens; T3 {settings['t3_dtype']}; "
        f"{settings['voice_prompt_seconds']} s of the voice; "
        f"medians and ranges of {max(1, settings['rounds'])} rounds"
    )


def _text(summary: Summary) -> str:
    """Return the median in s or ms."""
    seconds = summary.median
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
