"""Control tokens and unknown characters; with Chatterbox's own tokenizer where there is one."""

import os
from functools import partial
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from app.engines.chatterbox.frontend.plain_text import plain_text
from app.text.chunking import split
from app.text.cleaning import clean
from tests.support.service import ROOT
from tests.text.llm_output import SENTENCES

TOKENIZER = Path(os.environ.get("CHATTERBOX_TOKENIZER", ROOT / "models/tokenizer.json"))

ATTACKS = [
    ("Press [START] to begin and [STOP] to end.", "Press (START) to begin and (STOP) to end."),
    ("He said [music] nothing.", "He said (music) nothing."),
    ("[SPACE][UNK]", "(SPACE)(UNK)"),
    ("[clear_throat] [fr] [PLACEHOLDER55]", "(clear_throat) (fr) (PLACEHOLDER55)"),
    ("［STOP］ [ST\u200bOP] \\[STOP\\] &#91;STOP&#93;", "(STOP) (STOP) (STOP) (STOP)"),
    ("[[STOP]] [ＳＴＯＰ] [**STOP**]", "((STOP)) (STOP) (STOP)"),
    ("⁅STOP⁆ 【STOP】 [STO\u0301P]", None),
]
CHARACTERS = [
    "x² ½ • → −5 °C 5′10″ €5.99 ≈ 3 № 5 cœur Łódź don't。 😀 中文 שלום ℵ ⅷ ﷽",
    "".join(map(chr, range(0x20, 0x530))),
    "".join(map(chr, range(0x2000, 0x2C00))),
    "".join(map(chr, range(0x3000, 0x3100))) + "".join(map(chr, range(0xFB00, 0x10000))),
    "".join(map(chr, range(0x1F000, 0x1FB00))),
]


@pytest.mark.parametrize(("text", "words"), ATTACKS)
def test_no_control_token_can_be_written(text: str, words: str | None) -> None:
    spoken = plain_text(clean(text, markup=True)).text
    assert "[" not in spoken
    assert "]" not in spoken
    assert words in (None, spoken)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    if not TOKENIZER.is_file():
        pytest.skip(f"no tokenizer in {TOKENIZER}: CHATTERBOX_TOKENIZER names one")
    return Tokenizer.from_file(str(TOKENIZER))


@pytest.mark.parametrize("prepare", [clean, partial(clean, markup=True)])
def test_chatterbox_knows_every_token(tokenizer: Tokenizer, prepare) -> None:  # type: ignore[no-untyped-def]
    for text in (*(text for text, _ in ATTACKS), *CHARACTERS, *SENTENCES):
        for chunk in split(plain_text(prepare(f"a {text}")).text, 150):
            tokens = tokenizer.encode(chunk.text.replace(" ", "[SPACE]")).tokens
            bracketed = {token for token in tokens if token.startswith("[") and len(token) > 1}
            assert bracketed <= {"[SPACE]"}, (chunk.text, bracketed)


# --- Other languages than English -----------------------------------------------------------------


@pytest.mark.parametrize("language", ["de", "ja", "ar", "zh"])
def test_only_pictures_are_dropped_in_other_languages(language: str) -> None:
    text = "½ – „Ja“ … 5 € ©, 你好。 שָׁלוֹם कि ３冊 ℃ №5 [START]"
    assert plain_text(clean(text), language).text == text.replace("[START]", "(START)")
    plain = plain_text(clean("Ja 😀👍🏽! 🇩🇪 ☕️ gut"), language)
    assert plain.text == "Ja ! gut"
    assert len(plain.dropped) == 6


def test_signs_are_words_in_english() -> None:
    assert plain_text("5 €", "en").text == plain_text("5 €").text == "5 euros"


def test_pauses_stay_in_other_languages() -> None:
    text = clean("# Titel\n\nEins 😀 <break time='1s'/> zwei\n- drei", markup=True)
    chunks = split(plain_text(text, "de").text, 150)
    assert [(chunk.text, chunk.pause_s) for chunk in chunks] == [
        ("Titel", 0.4), ("Eins", 1.0), ("zwei", 0.25), ("drei", 0),
    ]  # fmt: skip
