"""A `Report` as a picture: how long one waits, and what for."""

import importlib.util
from typing import Any, BinaryIO

from app.bench.speed.figures import Measured, Report
from app.core.errors import StartupError

DARK, LIGHT, GREY = "#1f5fa8", "#a9c9ea", "#8a8a8a"
INK, FAINT = "#222222", "#666666"
BESIDE = 0.5
"""Of an axis' length: room for what is written beside the longest bar."""


def check_matplotlib() -> None:
    """Raises `StartupError` where it is missing."""
    if not importlib.util.find_spec("matplotlib"):
        raise StartupError("--plot needs matplotlib: pip install 'chatterbox-tts-server[bench]'")


def draw(report: Report, file: BinaryIO) -> None:
    """Write the picture to `file`, as PNG: 1350 by 840 pixels."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 10, "text.color": INK}):
        figure = Figure(figsize=(9, 5.6), layout="constrained", facecolor="white")
        latency, stages = figure.subplots(2, 1, height_ratios=[2 if report.package else 1, 3])
        _draw_latency(latency, report)
        _draw_stages(stages, report)
        figure.suptitle(_headline(report), fontsize=13, fontweight="bold", x=0.01, ha="left")
        figure.supxlabel(_conditions(report), fontsize=8, color=FAINT, x=0.01, ha="left")
        figure.savefig(file, format="png", dpi=150)


def _draw_latency(axes: Any, report: Report) -> None:
    """A bar from the request to the last sample; dark until the first is heard."""
    first, total = report.own.first_audio_s, report.own.total_s
    heard = f"heard after {_shown(first)}, all of it after {_shown(total)}"
    axes.barh("this engine", total.median, color=LIGHT)
    axes.barh("this engine", first.median, color=DARK)
    _label(axes, "this engine", total, heard)
    if package := report.package:
        axes.barh("generate", package.total_s.median, color=GREY)
        _label(axes, "generate", package.total_s, f"heard after {_shown(package.total_s)}")
    _tidy(axes, "Seconds since the request; dark until something is heard")


def _draw_stages(axes: Any, report: Report) -> None:
    stages = report.own.stages_s
    in_all = sum(seconds.median for seconds in stages.values())
    for stage, seconds in stages.items():
        axes.barh(stage, seconds.median, color=DARK)
        _label(axes, stage, seconds, f"{_shown(seconds)}, {seconds.median / in_all:.0%}")
    _tidy(axes, "Seconds that each stage of a job takes alone")


def _label(axes: Any, row: str, seconds: Measured, text: str) -> None:
    """Beside a bar; if rounds differ, a line says from where to where."""
    if seconds.most > seconds.least:
        axes.hlines(row, seconds.least, seconds.most, color=INK, linewidth=1)
    end = (seconds.most, row)
    axes.annotate(text, end, xytext=(6, 0), textcoords="offset points", va="center")


def _tidy(axes: Any, title: str) -> None:
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontsize=10, color=FAINT)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0)
    longest = axes.get_xlim()[1]
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= longest])
    axes.spines["bottom"].set_bounds(0, longest)
    axes.set_xlim(0, longest * (1 + BESIDE))


def _headline(report: Report) -> str:
    if not report.package:
        return f"First audio after {_shown(report.own.first_audio_s)}"
    first, total = report.package.first_audio_ratio.median, report.package.total_ratio.median
    return f"First audio after {first:.0%} of generate's time, all of it after {total:.0%}"


def _conditions(report: Report) -> str:
    machine, settings = report.machine, report.settings
    device = machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} threads"
    return (
        f"{device}; torch {machine['torch']}; weights: {settings['weights']}; "
        f"{settings['tokens']} tokens; T3 {settings['t3_dtype']}; "
        f"{settings['voice_prompt_seconds']} s of the voice; "
        f"medians and ranges of {max(1, settings['rounds'])} rounds"
    )


def _shown(measured: Measured) -> str:
    """The median, in the unit that suits it."""
    seconds = measured.median
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
