"""Files of other programs are judged by the sound in them, not by what their headers state."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from app.audio.decode_limits import DecodeLimits, ExitStatus
from app.audio.sandbox import load_decoded
from tests.support.foreign_media import CUTTABLE, FILES, SOUND_S
from tests.support.forked_decoder import decode_all
from tests.support.media import audio_file, tone

SOME = [
    "unpadded, one.wav",
    "unpadded, two.wav",
    "unpadded, sound.wav",
    "unpadded, pad of another value.wav",
    "unpadded, one.rifx.wav",
    "placeholder, 0x77359400 twice.wav",
    "placeholder, 0x7ffff000 in 0x7ffff024.wav",
    "placeholder, 0x0, unpadded.wav",
    "placeholder, 0x77359400.m4a",
    "placeholder, 0xffffffff.fragmented.m4a",
    "placeholder, 0x7fffffff.webm",
    "placeholder, 0xffffffffffffffff.rf64.wav",
    "placeholder, 0xfffffffff.flac",
    "placeholder, 9 s.live.webm",
    "film, late.webm",
    "film, early end.webm",
    "film, early end, picture first.faststart.m4a",
    "film, pause.webm",
    "film, pause.m4a",
    "film, pause.opus",
    "film, all.mkv",
    "stated, tagged.adts.m4a",
]
SOME_CUT = [
    "unpadded, one.wav",
    "film, late in a film.webm",
    "film, pause.mkv",
    "film, pause.faststart.m4a",
    "stated, plain.rf64.wav",
    "stated, plain.flac",
    "stated, stated.live.webm",
    "stated, plain.adts.m4a",
]


@pytest.mark.parametrize(
    "names", [SOME, pytest.param(list(FILES), marks=pytest.mark.heavy)], ids=len
)
def test_file_of_another_program_has_its_true_length(tmp_path: Path, names: Sequence[str]) -> None:
    reports = decode_all(tmp_path, {name: FILES[name]() for name in names}, DecodeLimits())
    lengths = {}
    for name, report in reports.items():
        assert report["status"] == ExitStatus.DONE, report
        samples, rate = load_decoded(tmp_path / f"{name}.decoded")
        lengths[name] = len(samples) / rate
    assert lengths == pytest.approx(dict.fromkeys(names, SOUND_S), abs=0.1)


@pytest.mark.parametrize(
    ("names", "shares"),
    [
        pytest.param(SOME_CUT, [0.75], id="some"),
        pytest.param(CUTTABLE, [0.15, 0.4, 0.6, 0.75], id="all", marks=pytest.mark.heavy),
    ],
)
def test_file_that_lacks_sound_is_refused(
    tmp_path: Path, names: Sequence[str], shares: Sequence[float]
) -> None:
    files = {}
    for name in names:
        whole = FILES[name]()
        files |= {f"{share:.0%} of {name}": whole[: int(share * len(whole))] for share in shares}
    reports = decode_all(tmp_path, files, DecodeLimits(min_s=0.1, min_active_s=0.1))
    accepted = [name for name, report in reports.items() if report["status"] == ExitStatus.DONE]
    assert not accepted


def test_long_recording_of_which_little_came_is_cut_off(tmp_path: Path) -> None:
    sound = tone(120)
    files = {
        "voice.wav": audio_file(sound),
        "voice.flac": audio_file(sound, container="flac", codec="flac"),
    }
    begun = {name: content[: len(content) * 3 // 100] for name, content in files.items()}
    reports = decode_all(tmp_path, begun, DecodeLimits())
    assert {report["status"] for report in reports.values()} == {ExitStatus.DAMAGED}
