"""Cleaning and the frontend together, on what language models write."""

import re

import pytest

from app.core.errors import EmptyText
from app.engines.chatterbox.frontend.plain_text import plain_text
from app.text.chunking import split
from app.text.cleaning import clean
from tests.text.llm_output import EXPECTED, SENTENCES


def spoken(text: str) -> str:
    try:
        chunks = split(plain_text(clean(text, markup=True)).text, 500)
    except EmptyText:
        return ""
    return " ".join(chunk.text for chunk in chunks)


@pytest.mark.parametrize(("text", "words"), EXPECTED.items())
def test_words_are_spoken_without_marks(text: str, words: str) -> None:
    assert spoken(text) == words


def test_there_are_sixty_and_together_they_say_the_same() -> None:
    assert len(SENTENCES) == 60
    words = "".join(re.findall(r"\w", "".join(EXPECTED.values())))
    assert "".join(re.findall(r"\w", spoken("\n\n".join(SENTENCES)))) == words


def test_what_is_clean_stays() -> None:
    for words in filter(None, EXPECTED.values()):
        if not re.search(r"\d[.)] |[*#]", words):
            assert spoken(words) == words
