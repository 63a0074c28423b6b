import pytest

from app.text.chunking import split
from app.text.cleaning import clean
from app.text.languages import ENGLISH, LANGUAGES, language_of, name_of, parse_language
from tests.engines.chatterbox.frontend.sentences import SENTENCES

MAX_TOKENS = 1000
"""What a model generates of a text chunk at most."""


@pytest.mark.parametrize(
    ("tag", "code"),
    [
        *(("en", "en"), ("EN", "en"), ("pt-BR", "pt"), ("zh_Hans", "zh"), ("zh-Hant-TW", "zh")),
        *((" de ", "de"), ("nb-NO", "no"), ("iw", "he"), ("cmn-Hans-CN", "zh"), ("xx", "xx")),
        *(("", ""), ("-", ""), ("English", "english")),
    ],
)
def test_case_and_region_are_understood(tag: str, code: str) -> None:
    assert parse_language(tag) == code


def test_codes_have_names() -> None:
    assert name_of("de") == "German (de)"
    assert name_of("klingon") == "'klingon'"
    assert language_of("xx").tokens_per_char == ENGLISH.tokens_per_char


@pytest.mark.parametrize("code", LANGUAGES)
def test_longest_chunks_fit_the_model(code: str) -> None:
    language = LANGUAGES[code]
    assert language.chunk_chars(500) * language.tokens_per_char < MAX_TOKENS
    assert language.chunk_chars(20) >= 12


def test_chinese_chunks_are_a_third_of_english_ones() -> None:
    assert LANGUAGES["zh"].chunk_chars(150) == 52
    text = "今天天气非常好，我们一起去公园散步吧。" * 10
    assert max(len(chunk.text) for chunk in split(text, 150, LANGUAGES["zh"])) <= 52


@pytest.mark.parametrize("code", LANGUAGES)
def test_chunks_end_with_sentences(code: str) -> None:
    """Two sentences fit a chunk, three do not."""
    ends = ".?!。？！।؟;"
    with_one_end = (
        text for text in SENTENCES[code] if [c for c in text if c in ends] == [text[-1]]
    )
    sentence = clean(max(with_one_end, key=len))
    glue = "" if code in ("ja", "zh") else " "
    size = round(2.9 * len(sentence) * LANGUAGES[code].tokens_per_char / ENGLISH.tokens_per_char)
    chunks = [chunk.text for chunk in split(glue.join([sentence] * 6), size, LANGUAGES[code])]
    assert chunks == [glue.join([sentence] * 2)] * 3


@pytest.mark.parametrize("code", ["zh", "ja"])
def test_letter_with_many_marks_fits_the_shortest_chunk(code: str) -> None:
    letter = "क" + "\u093f" * 7
    chunks = split(letter * 20, 20, LANGUAGES[code])
    assert "".join(chunk.text for chunk in chunks) == letter * 20
    assert all(len(chunk.text) <= 12 for chunk in chunks)
