"""Compared with Perth itself on real speech: its marked recording, and its detector."""

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

from app.core.audio import Samples
from app.core.errors import StartupError
from app.engines.chatterbox import watermark
from app.engines.chatterbox.watermark import (
    CONTEXT,
    FRAME,
    LOOK_AHEAD,
    StreamingWatermark,
    WatermarkFn,
    load_watermarker,
)
from app.pipeline.joiner import to_int16
from tests.support import watermark as support

ROOT = Path(__file__).parents[3]
RATE = 24_000
SLICINGS = [(5 * 960,), (35 * 960,), (1, 20_000, 0, 959, 960, 961, 7)]


@pytest.fixture(scope="module")
def mark() -> Iterator[WatermarkFn]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # windows are too short for several threads
    yield load_watermarker()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def perth(mark: WatermarkFn) -> Any:
    """Perth's own class."""
    return support.perth()


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
    """The recording marked by Perth; its length is a multiple of Perth's hop."""
    marked: Samples = perth.apply_watermark(speech, RATE)
    assert len(marked) == len(speech)
    return marked


def pieces(audio: Samples, lengths: tuple[int, ...]) -> Iterator[tuple[Samples, bool]]:
    """Cut `audio` into pieces of these lengths, in turn; each with whether it is the last."""
    borders = [0]
    for length in cycle(lengths):
        borders.append(borders[-1] + length)
        if borders[-1] >= len(audio):
            break
    for start, stop in pairwise(borders):
        yield audio[start:stop], stop >= len(audio)


def streamed(mark: WatermarkFn, audio: Samples, lengths: tuple[int, ...]) -> Samples:
    stream = StreamingWatermark(mark)
    return np.concatenate([stream.push(*piece) for piece in pieces(audio, lengths)])


def distance_db(marked: Samples, whole: Samples, audio: Samples) -> float:
    """Error of `marked` relative to the mark itself, which is 15 dB below the speech."""
    error, mark = np.square(marked - whole), np.square(whole - audio)
    return float(10 * np.log10(error.mean() / mark.mean()))


@pytest.mark.parametrize("lengths", SLICINGS)
def test_joined_stream_equals_the_marked_recording(
    mark: WatermarkFn, speech: Samples, whole: Samples, lengths: tuple[int, ...]
) -> None:
    marked = streamed(mark, speech, lengths)

    assert marked.dtype == np.float32
    assert distance_db(marked, whole, speech) < -75
    assert np.abs(marked - whole).max() < 5e-5  # everywhere, so at the seams too


@pytest.mark.parametrize(
    ("name", "samples"),
    [("CONTEXT", 0), ("LOOK_AHEAD", 0), ("CONTEXT", CONTEXT + 120), ("CONTEXT", FRAME)],
)
def test_comparison_fails_without_context_look_ahead_or_framing(
    mark: WatermarkFn,
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


def test_digital_silence_in_speech_keeps_the_mark(
    mark: WatermarkFn, perth: Any, speech: Samples
) -> None:
    audio = speech.copy()
    audio[5 * RATE : 6 * RATE] = 0

    marked = streamed(mark, audio, (5 * 960,))

    assert distance_db(marked, perth.apply_watermark(audio, RATE), audio) < -60


def test_digital_silence_stays_silent(mark: WatermarkFn) -> None:
    silence = np.zeros(RATE, np.float32)

    assert set(to_int16(streamed(mark, silence, (960,)))) == {0}


def test_perth_detects_the_mark_in_mp3_and_in_every_excerpt(
    mark: WatermarkFn, speech: Samples
) -> None:
    marked = streamed(mark, speech, (5 * 960,))

    support.assert_detected(marked)
    support.assert_detected(support.through_mp3(marked))
    assert support.score(support.through_mp3(speech)) < 0.1


def test_delay_is_at_most_the_look_ahead(mark: WatermarkFn, speech: Samples) -> None:
    stream = StreamingWatermark(mark)
    pushed = returned = 0

    for audio, last in pieces(speech[: 2 * RATE], (5 * 960, 1, 700, 960, 7000)):
        pushed += len(audio)
        returned += len(stream.push(audio, last))
        assert pushed - returned < (1 if last else LOOK_AHEAD + FRAME)


@pytest.mark.parametrize("lengths", [(251,), (100_000,)])
@pytest.mark.parametrize("samples", [0, 1, 239, 700, 3_100, LOOK_AHEAD, LOOK_AHEAD + 1, 30_001])
def test_stream_of_any_length_keeps_its_length_and_sound(
    mark: WatermarkFn, speech: Samples, samples: int, lengths: tuple[int, ...]
) -> None:
    audio = speech[RATE : RATE + samples]

    marked = streamed(mark, audio, lengths)

    assert len(marked) == samples
    assert np.vdot(marked, audio) >= 0.7 * np.vdot(audio, audio)


def test_stream_may_end_with_an_empty_push(mark: WatermarkFn, speech: Samples) -> None:
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


def test_import_loads_neither_perth_nor_torch() -> None:
    run_python(
        "import sys, app.engines.chatterbox.watermark; "
        "assert not {'perth', 'torch'} & sys.modules.keys()"
    )


def test_rejects_an_environment_in_which_perth_disables_itself() -> None:
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
def test_rejects_missing_or_damaged_weights(
    perth: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_bytes: int | None
) -> None:
    """None: the file is missing."""
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
    """Output of `code` in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
