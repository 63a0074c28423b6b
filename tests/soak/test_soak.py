"""A short soak of a faulty service, which is detected; .ci/run soaks the correct one."""

import tempfile
from collections.abc import AsyncGenerator
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


@pytest.mark.timed
def test_mixed_up_voices_are_detected_and_log_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(soak_module, "ENGINE", f"{__name__}:MixedUpEngine")
    with tempfile.TemporaryDirectory() as folder:  # pytest's path is too long for sockets
        monkeypatch.setattr(tempfile, "tempdir", folder)
        assert main(["--seconds", "0.8"]) == 1
        output = capsys.readouterr()
        figures, *violations = output.out.splitlines()
        assert not figures.endswith(" 0 violations")
        assert any("is not the audio of this text, seed and voice" in line for line in violations)
        [log] = Path(folder).glob("*/service.log")
        assert str(log) in output.err
