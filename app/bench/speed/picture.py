"""A `Report` as a picture: how long one waits, and for what."""

import importlib.util
from typing import BinaryIO

from app.bench.speed.figures import Report
from app.errors import StartupError


def check_matplotlib() -> None:
    """Raises `StartupError` where it is missing."""
    if not importlib.util.find_spec("matplotlib"):
        raise StartupError("--plot needs matplotlib: pip install 'chatterbox-tts-server[bench]'")


def draw(report: Report, file: BinaryIO) -> None:
    """Write the picture to `file`, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    figure.savefig(file, format="png", dpi=150)
