"""Against Perth itself, on real speech: its mark of the whole recording, and its detector."""

import io
import subprocess
import sys
from collections.abc import Iterator
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soxr
import torch

from app.audio.formats import ENCODERS
from app.core.audio import Samples
from app.core.errors import StartupError
from app.engines.chatterbox import watermark
from app.engines.chatterbox.watermark import (
    CONTEXT,
    GRID,
    LOOK_AHEAD,
    Mark,
    StreamingWatermark,
    load_watermarker,
)
from app.pipeline.joiner import to_int16

ROOT = Path(__file__).parents[3]
RATE = 24_000
SLICINGS = [(5 * 960,), (35 * 960,), (1, 20_000, 0, 959, 960, 961, 7)]


@pytest.fixture(scope="module")
def mark() -> Iterator[Mark]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # windows are too short to share, least of all on a busy machine
    yield load_watermarker()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def perth(mark: Mark) -> Any:
    """Perth's own class, as its users have it."""
    from perth import PerthImplicitWatermarker

    return PerthImplicitWatermarker()


@pytest.fixture(scope="module")
def speech() -> Samples:
    """10.4 s, float32 [249600]."""
    with av.open(ROOT / "preloaded-voices" / "austen.wav") as file:
        frames = [frame.to_ndarray()[0] for frame in file.decode(audio=0)]
        rate = file.streams.audio[0].rate
    audio: Samples = soxr.resample(np.concatenate(frames) / np.float32(32768), rate, RATE)
    return audio


@pytest.fixture(scope="module")
def whole(perth: Any, speech: Samples) -> Samples:
    """What Perth makes of the whole recording; 10.4 s are a whole number of its spectra."""
    marked: Samples = perth.apply_watermark(speech, RATE)
    assert len(marked) == len(speech)
    return marked


def pieces(audio: Samples, lengths: tuple[int, ...]) -> Iterator[tuple[Samples, bool]]:
    """`audio` in pieces of these lengths, again and again, each with whether it is the last."""
    borders = [0]
    for length in cycle(lengths):
        borders.append(borders[-1] + length)
        if borders[-1] >= len(audio):
            break
    for start, stop in pairwise(borders):
        yield audio[start:stop], stop >= len(audio)


def streamed(mark: Mark, audio: Samples, lengths: tuple[int, ...]) -> Samples:
    stream = StreamingWatermark(mark)
    return np.concatenate([stream.push(*piece) for piece in pieces(audio, lengths)])


def distance_db(marked: Samples, whole: Samples, audio: Samples) -> float:
    """How far `marked` is from `whole`, measured by the mark itself (15 dB below the speech)."""
    error, mark = np.square(marked - whole), np.square(whole - audio)
    return float(10 * np.log10(error.mean() / mark.mean()))


def assert_detected(perth: Any, audio: Samples) -> None:
    """In the whole, and in every 2 s of it."""
    assert perth.get_watermark(audio, RATE, round=False) > 0.9
    for start in range(0, len(audio) - 2 * RATE + 1, RATE):
        excerpt = audio[start : start + 2 * RATE]
        assert perth.get_watermark(excerpt, RATE, round=False) > 0.9


def through_mp3(audio: Samples) -> Samples:
    """As a listener gets it from the service."""
    encoder = ENCODERS["mp3"](RATE)
    encoded = encoder.encode(to_int16(audio)) + encoder.finish()
    with av.open(io.BytesIO(encoded)) as file:
        return np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])


@pytest.mark.parametrize("lengths", SLICINGS)
def test_the_joined_stream_is_the_whole_recording_marked(
    mark: Mark, speech: Samples, whole: Samples, lengths: tuple[int, ...]
) -> None:
    marked = streamed(mark, speech, lengths)

    assert marked.dtype == np.float32
    assert distance_db(marked, whole, speech) < -75
    assert np.abs(marked - whole).max() < 5e-5  # everywhere, so at the seams too


@pytest.mark.parametrize(
    ("name", "samples"),
    [("CONTEXT", 0), ("LOOK_AHEAD", 0), ("CONTEXT", CONTEXT + 120), ("CONTEXT", GRID)],
)
def test_that_comparison_fails_without_context_look_ahead_or_grid(
    mark: Mark,
    speech: Samples,
    whole: Samples,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    samples: int,
) -> None:
    monkeypatch.setattr(watermark, name, samples)

    marked = streamed(mark, speech, (5 * 960,))

    assert distance_db(marked, whole, speech) > -60
    assert np.abs(marked - whole).max() > 1e-4


def test_digital_silence_amid_speech_does_no_harm(mark: Mark, perth: Any, speech: Samples) -> None:
    audio = speech.copy()
    audio[5 * RATE : 6 * RATE] = 0

    marked = streamed(mark, audio, (5 * 960,))

    assert distance_db(marked, perth.apply_watermark(audio, RATE), audio) < -60


def test_digital_silence_stays_silent(mark: Mark) -> None:
    silence = np.zeros(RATE, np.float32)

    assert set(to_int16(streamed(mark, silence, (960,)))) == {0}


def test_perth_finds_the_mark_in_the_answer_and_in_every_excerpt(
    mark: Mark, perth: Any, speech: Samples
) -> None:
    marked = streamed(mark, speech, (5 * 960,))

    assert_detected(perth, marked)
    assert_detected(perth, through_mp3(marked))
    assert perth.get_watermark(through_mp3(speech), RATE, round=False) < 0.1


def test_only_the_look_ahead_is_held_back(mark: Mark, speech: Samples) -> None:
    stream = StreamingWatermark(mark)
    pushed = returned = 0

    for audio, last in pieces(speech[: 2 * RATE], (5 * 960, 1, 700, 960, 7000)):
        pushed += len(audio)
        returned += len(stream.push(audio, last))
        assert pushed - returned < (1 if last else LOOK_AHEAD + GRID)


@pytest.mark.parametrize("lengths", [(251,), (100_000,)])
@pytest.mark.parametrize("samples", [0, 1, 239, 700, 3_100, LOOK_AHEAD, LOOK_AHEAD + 1, 30_001])
def test_a_stream_of_any_length_keeps_it_and_sounds_the_same(
    mark: Mark, speech: Samples, samples: int, lengths: tuple[int, ...]
) -> None:
    audio = speech[RATE : RATE + samples]

    marked = streamed(mark, audio, lengths)

    assert len(marked) == samples
    assert np.vdot(marked, audio) >= 0.7 * np.vdot(audio, audio)


def test_the_end_of_a_stream_may_come_after_its_last_audio(mark: Mark, speech: Samples) -> None:
    audio = speech[: RATE // 2]
    late = StreamingWatermark(mark)

    marked = np.concatenate(
        [
            late.push(audio, last=False),
            late.push(audio[:0], last=False),
            late.push(audio[:0], last=True),
        ]
    )

    np.testing.assert_allclose(marked, mark(audio), atol=5e-5)


def test_importing_the_module_loads_neither_perth_nor_torch() -> None:
    run_python(
        "import sys, app.engines.chatterbox.watermark; "
        "assert not {'perth', 'torch'} & sys.modules.keys()"
    )


def test_an_environment_in_which_perth_disables_itself_is_refused() -> None:
    """As with setuptools 82, which no longer has `pkg_resources`."""
    output = run_python(
        "import sys\n"
        "sys.modules['pkg_resources'] = None\n"
        "from app.engines.chatterbox.watermark import load_watermarker\n"
        "from app.core.errors import StartupError\n"
        "try: load_watermarker()\n"
        "except StartupError as error: print(error)\n"
        "import perth\n"
        "assert perth.PerthImplicitWatermarker is None"
    )

    assert "pkg_resources" in output
    assert "setuptools<82" in output
    assert output.count("\n") == 1


@pytest.mark.parametrize("kept_bytes", [None, 0, 100, 100_000])
def test_missing_or_damaged_weights_are_refused(
    perth: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_bytes: int | None
) -> None:
    """`None`: there is no file at all."""
    from perth.perth_net import PREPACKAGED_MODELS_DIR

    (tmp_path / "implicit").mkdir()
    for file in (Path(PREPACKAGED_MODELS_DIR) / "implicit").iterdir():
        damaged = file.name.endswith(".tar")
        if not (damaged and kept_bytes is None):
            content = file.read_bytes()[: kept_bytes if damaged else None]
            (tmp_path / "implicit" / file.name).write_bytes(content)
    defaults = ("implicit", tmp_path, "cpu", None)
    monkeypatch.setattr(type(perth).__init__, "__defaults__", defaults)

    with pytest.raises(StartupError, match="the watermarker cannot be loaded") as refusal:
        load_watermarker()

    assert "\n" not in str(refusal.value)


def run_python(code: str) -> str:
    """What `code` prints in a fresh interpreter; fails if it does."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
