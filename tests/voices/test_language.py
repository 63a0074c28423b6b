from pathlib import Path

import pytest

from app.voices.folder import digest_of
from app.voices.language import language_of_voice
from tests.support.service import ROOT


@pytest.mark.parametrize(
    ("voice_id", "language"),
    [
        ("giulia.it.wav", "it"),
        ("ana.PT.mp3", "pt"),
        ("ana.pt-BR.mp3", "pt"),
        ("ana.pt_br.flac", "pt"),
        ("wei.zh-Hans-CN.wav", "zh"),
        ("mei.cmn.opus", "zh"),
        ("kari.nb.wav", "no"),
        ("Müller.v2.de.m4a", "de"),
        ("my voice.en.WAV", "en"),
        ("take.no.wav", "no"),
        ("wendr.it.wav", "it"),
    ],
)
def test_code_before_the_ending_is_the_language(voice_id: str, language: str) -> None:
    assert language_of_voice(voice_id, "") == language


@pytest.mark.parametrize(
    "voice_id",
    [
        *("austen.wav", "en.wav", "no.wav", ".en.wav", "en", "austen-en.wav", "austen_en.wav"),
        *("mr.no.wav", "Dr.it.mp3", "dear mrs.he.wav", "the_dr.no.wav", "Dr. No.wav", "dr. no.wav"),
        *("Say.It.wav", "Say.iT.wav", "take.la.wav", "voice.xx.wav", "take.2.wav", "final.mix.wav"),
        *("en.v2.wav", "giulia.it.old.wav", "say.it_loud.wav", "hi.there.wav", "say.hi-fi1.wav"),
        *("voice.en-.wav", "voice..en.-.wav", "voice.ｅｎ.wav", "voice.en.wav.backup"),
    ],
)
def test_name_that_only_looks_like_it_has_no_language(voice_id: str) -> None:
    assert language_of_voice(voice_id, "") is None


def test_preloaded_voices_are_english_whatever_they_are_called() -> None:
    voices = [path for path in Path(ROOT / "preloaded-voices").iterdir() if path.suffix != ".md"]
    assert len(voices) >= 3
    for path in voices:
        assert language_of_voice(path.name, digest_of(str(path))) == "en"
