"""`/tts/convert` with worker processes: a recording comes back as what the engine makes of it."""

import numpy as np
import pytest
import soundfile
import soxr

from app.core.audio import SAMPLE_RATE
from tests.support.api import all_files
from tests.support.recogniser import decode_audio
from tests.support.service import ROOT

AUSTEN = ROOT / "preloaded-voices" / "austen.wav"


ENCODER_DELAY = {"raw_pcm": 0, "mp3": 4 * 576}
"""In samples, at start and end; a converted recording is exactly as long as it was."""


@pytest.mark.parametrize("format_name", ENCODER_DELAY)
def test_what_is_said_comes_back_and_no_file_is_left(start, tmp_path, format_name):
    speech, rate = soundfile.read(AUSTEN, dtype="float32")
    said = np.tile(speech, 4)  # longer than what is converted at once
    soundfile.write(tmp_path / "said.flac", said, rate)
    service = start(MODEL="tests.support.signal_engine:ConvertingEngine")
    with service.client() as client:
        files = {"file": ("said.flac", (tmp_path / "said.flac").read_bytes())}
        answer = client.post("/tts/convert", files=files, data={"format": format_name})
        heard = decode_audio(answer.raise_for_status().content, format_name)
        service.wait_until(service.is_idle, 10)

    expected = soxr.resample(said, rate, SAMPLE_RATE)
    assert abs(len(heard) - len(expected)) <= ENCODER_DELAY[format_name]
    if format_name == "raw_pcm":
        assert np.corrcoef(heard, expected)[0, 1] > 0.99
    assert not [name for name in all_files(service.folder) if "recording" in str(name)]
