import io
import subprocess
import sys

import pytest
from PIL import Image

from app.bench.plot import draw
from app.bench.report import Figures, Report, Summary
from tests.support.service import ROOT

STAGES = ("T3", "flow's encoder", "flow's solver", "vocoder", "watermark", "PCM")
ROUNDS = Summary(2.0, 1.5, 2.5)
OWN: Figures = {
    "first_audio_s": Summary(1.0, 0.9, 1.1),
    "total_s": ROUNDS,
    "stages_s": dict.fromkeys(STAGES, ROUNDS),
}
PACKAGE: Figures = {"total_s": ROUNDS, "first_audio_ratio": ROUNDS, "total_ratio": ROUNDS}
MACHINE: Figures = {"cpu": "Some processor", "threads": 2, "torch": "2.6.0"}
SETTINGS: Figures = {
    "weights": "random", "tokens": 70, "t3_dtype": "auto", "voice_prompt_seconds": 10, "rounds": 3,
}  # fmt: skip


def drawn(report: Report) -> Image.Image:
    file = io.BytesIO()
    draw(report, file)
    return Image.open(file).convert("RGB")


@pytest.mark.parametrize("package", [PACKAGE, None])
def test_plot_shows_bars_on_white(package: Figures | None) -> None:
    picture = drawn(Report(MACHINE, SETTINGS, OWN, package, [], None))
    assert picture.size == (1350, 840)
    assert picture.getpixel((2, 2)) == (255, 255, 255)
    pixels = {color: count for count, color in picture.getcolors(100_000) or ()}
    assert pixels[0x1F, 0x5F, 0xA8] > 20_000  # the stages, and the time to first audio
    assert (pixels[0x8A, 0x8A, 0x8A] > 10_000) is (package is not None)  # letters' edges


def test_bar_length_is_proportional() -> None:
    def dark(first_audio_s: float) -> int:
        own = OWN | {"first_audio_s": Summary(first_audio_s, first_audio_s, first_audio_s)}
        picture = drawn(Report(MACHINE, SETTINGS, own, PACKAGE, [], None))
        row = picture.height // 6
        line = [picture.getpixel((x, row)) for x in range(picture.width)]
        return line.count((0x1F, 0x5F, 0xA8))

    assert dark(1.6) == pytest.approx(2 * dark(0.8), rel=0.05)


def test_missing_matplotlib_is_one_line_with_the_command() -> None:
    code = "import sys; sys.modules['matplotlib'] = None; from app.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "bench", "engine", "--plot", "picture.png"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "chatterbox-tts: --plot needs matplotlib: pip install 'chatterbox-tts-server[bench]'\n"
    )
