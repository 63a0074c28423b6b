"""Short soaks: a correct service passes, a faulty one is detected."""

import tempfile
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from app.core.params import SynthesisParams
from app.engines.base import SpeechSlice, TextChunk
from tests.soak import soak as soak_module
from tests.soak.__main__ import main
from tests.support.signal_engine import SignalEngine


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


@pytest.mark.fault(53)
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
    assert " left" in line
    assert ", 1 workers killed, " in line
    assert list(temp_dir.iterdir()) == []


@pytest.mark.timed
def test_mixed_up_voices_are_detected_and_log_is_kept(
    temp_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(soak_module, "ENGINE", f"{__name__}:MixedUpEngine")
    assert main(["--seconds", "0.8"]) == 1
    output = capsys.readouterr()
    figures, *violations = output.out.splitlines()
    assert not figures.endswith(" 0 violations")
    assert any("is not the audio of this text, seed and voice" in line for line in violations)
    [log] = temp_dir.glob("*/service.log")
    assert str(log) in output.err
