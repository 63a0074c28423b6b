import gc

import numpy as np
import psutil
import pytest

from app.audio.formats import ENCODERS
from app.audio.tempo import TempoEncoder, TimeStretch
from tests.audio.test_encoder import RATE, decode, encode, floats, speech

SPEEDS = [0.25, 0.4, 0.5, 0.75, 1.1, 1.5, 2, 2.7, 4]


def stretched(pcm: bytes, speed: float, samples: int = 480) -> bytes:
    """All of `pcm` through a stretch, `samples` samples at a time."""
    stretch, step = TimeStretch(RATE, speed), 2 * samples
    pieces = [stretch.push(pcm[i : i + step]) for i in range(0, len(pcm), step)]
    return b"".join([*pieces, stretch.finish()])


def beeps(*at_s: float, seconds: float) -> bytes:
    """Silence with 50 ms of 700 Hz at these moments."""
    audio, beep = np.zeros(round(seconds * RATE)), np.sin(np.arange(1200) * 2 * np.pi * 700 / RATE)
    for moment in at_s:
        start = round(moment * RATE)
        audio[start : start + len(beep)] = beep
    return (audio * 20_000).astype("<i2").tobytes()


def loud_moments(pcm: bytes) -> list[float]:
    """Return the middle of each loud part, in seconds."""
    loud = np.flatnonzero(np.abs(floats(pcm)) > 0.2)
    parts = np.split(loud, np.flatnonzero(np.diff(loud) > 0.06 * RATE) + 1)
    return [float(part[0] + part[-1]) / 2 / RATE for part in parts]


@pytest.mark.covers("speech speed")
@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("samples", [0, 1, 100, 5_000, 77_041])
def test_the_duration_is_exactly_the_length_divided_by_the_speed(
    speed: float, samples: int
) -> None:
    pcm = speech(samples / RATE)
    assert len(stretched(pcm, speed)) // 2 == round(samples / speed)


@pytest.mark.parametrize("speed", SPEEDS)
def test_pieces_of_any_length_make_the_same(speed: float) -> None:
    pcm = speech(0.7)
    whole = stretched(pcm, speed, samples=len(pcm))
    assert all(stretched(pcm, speed, samples) == whole for samples in (7, 479, 5_001))


@pytest.mark.parametrize("speed", SPEEDS)
def test_pitch_stays(speed: float) -> None:
    pcm = (np.sin(np.arange(2 * RATE) * 2 * np.pi * 440 / RATE) * 10_000).astype("<i2").tobytes()
    audio = floats(stretched(pcm, speed))
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
    assert spectrum.argmax() * RATE / len(audio) == pytest.approx(440, abs=4)
    assert np.sqrt((audio**2).mean()) == pytest.approx(np.sqrt((floats(pcm) ** 2).mean()), rel=0.05)


@pytest.mark.parametrize("speed", SPEEDS)
def test_encoded_audio_keeps_its_timing_to_the_end(speed: float) -> None:
    moments = (0.0, 1.0, 1.93)
    heard = loud_moments(stretched(beeps(*moments, seconds=2), speed))
    assert heard == pytest.approx(
        [(at + 0.025) / speed for at in moments], abs=0.06 / min(speed, 1)
    )


@pytest.mark.parametrize("speed", SPEEDS)
def test_tempo_encoder_delays_little(speed: float) -> None:
    stretch, pcm = TimeStretch(RATE, speed), speech(1)
    given = len(stretch.push(pcm))
    assert len(pcm) - given * speed <= 0.22 * RATE * 2


@pytest.mark.parametrize("name", ENCODERS)
def test_tempo_encoder_encodes_the_stretched_audio(name: str) -> None:
    pcm, new = speech(1.3), ENCODERS[name]
    encoder = TempoEncoder(RATE, 1.5, new(RATE))
    encoded = encode(encoder, pcm, samples=1234)

    plain = new(RATE)
    assert encoded == encode(plain, stretched(pcm, 1.5))
    assert encoder.finalize_file(encoded) == plain.finalize_file(encoded)
    assert (encoder.media_type, encoder.cpu_bound) == (plain.media_type, True)
    if name != "raw_pcm":
        assert len(decode(name, encoded)) == pytest.approx(1.3 / 1.5 * RATE, abs=0.13 * RATE)


@pytest.mark.timed
def test_dropped_encoder_releases_its_memory() -> None:
    process, pcm = psutil.Process(), speech(0.5)
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):  # until the allocator has what it needs
            TimeStretch(RATE, 0.4).push(pcm)
        memory = process.memory_info().rss
        for _ in range(200):
            TimeStretch(RATE, 0.4).push(pcm)
        assert process.memory_info().rss - memory < 2_000_000
    finally:
        gc.enable()
