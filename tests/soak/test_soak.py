"""Short soaks: a correct service passes, a faulty one is detected."""

import tempfile
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.core.params import SynthesisParams
from app.engines.base import SpeechSlice, TextChunk
from tests.soak import soak as soak_module
from tests.soak.__main__ import main
from tests.soak.leak_checks import MAX_THREAD_GROWTH, Footprint, growth
from tests.soak.report import Report
from tests.support.signal_engine import SignalEngine

FOOTPRINT = Footprint(memory_mb=100, descriptors=35, threads=15, sockets=5)


class MixedUpEngine(SignalEngine):
    """Uses a wrong voice for every fifth text chunk."""

    chunks = 0

    def speech_tokens(
        self, chunk: TextChunk, voice: int, params: SynthesisParams
    ) -> AsyncGenerator[SpeechSlice, None]:
        self.chunks += 1
        return super().speech_tokens(chunk, voice + (self.chunks % 5 == 0), params)


@pytest.fixture
def temp_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a soak makes its folder; pytest's path is too long for sockets."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.mark.timed
def test_correct_service_passes_and_leaves_nothing(
    temp_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output = main(["--seconds", "3.6"]), capsys.readouterr().out
    assert code == 0, output
    [line] = output.splitlines()
    assert line.startswith("soak of 3.6 s: ")
    assert line.endswith(", 0 violations")
    assert " whole" in line
    assert ", 1 workers killed, " in line
    assert list(temp_dir.iterdir()) == []


@pytest.mark.timed
def test_mixed_up_voices_are_detected_and_log_is_kept(
    temp_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(soak_module, "ENGINE", f"{__name__}:MixedUpEngine")
    assert main(["--seconds", "1.2"]) == 1
    output = capsys.readouterr()
    figures, *violations = output.out.splitlines()
    assert not figures.endswith(" 0 violations")
    assert any("is not the audio of this text, seed and voice" in line for line in violations)
    [log] = temp_dir.glob("*/service.log")
    assert str(log) in output.err


@pytest.mark.parametrize("seconds", ["0", "nan", "an hour", "86401"])
def test_invalid_length_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--seconds", seconds])
    assert ended.value.code == 2
    assert "--seconds" in capsys.readouterr().err


@pytest.mark.parametrize(
    "after",
    [
        replace(FOOTPRINT, memory_mb=111),
        replace(FOOTPRINT, descriptors=38),
        replace(FOOTPRINT, descriptors=32),
        replace(FOOTPRINT, threads=15 + MAX_THREAD_GROWTH + 1),
        replace(FOOTPRINT, sockets=7),
    ],
)
def test_growth_is_a_violation(after: Footprint) -> None:
    assert len(list(growth(FOOTPRINT, after))) == 1


def test_small_growth_is_allowed() -> None:
    assert list(growth(FOOTPRINT, replace(FOOTPRINT, memory_mb=104, descriptors=36))) == []


def test_twenty_violations_are_shown() -> None:
    report = Report(60, violations=[f"fault {number}" for number in range(25)])
    assert [*report.lines()][1:] == [*(f"fault {number}" for number in range(20)), "… and 5 more"]
