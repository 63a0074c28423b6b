"""Write a cleaned text in the characters that English models were trained on.

Signs become words, other letters their plain forms, and what has neither is dropped. Called by
engines whose model is English, before the text is split.
"""

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple
from unicodedata import category, decomposition, name, normalize

import regex
from anyascii import anyascii

from app.text.cleaning import collapse_spaces
from app.text.english_rules import RULES, WORDS
from app.text.patterns import pattern
from app.text.pauses import LINE_END, MARKS
from app.text.punctuation import plain_punctuation

MAX_WORDS = 5
"""A sign whose Unicode name is longer is dropped: that name is not what readers say."""

log = logging.getLogger(__name__)


class PlainText(NamedTuple):
    """A text that a model can speak; `dropped` are the characters that it lacks."""

    text: str
    dropped: str

    def logged(self) -> str:
        """Log how many characters were dropped, and return the text."""
        if self.dropped:
            log.info("%d characters that have no spoken form were dropped", len(self.dropped))
        return self.text


def plain_english(text: str, punctuation: Callable[[str], str] = plain_punctuation) -> PlainText:
    """`text` in ASCII and the letters of Latin-1, with its pauses. Takes linear time."""
    dropped: list[str] = []

    def compatible(match: regex.Match[str]) -> str:
        char = _compatible(match[0])
        if len(char) == 1 and _plain_character(char) is None:
            dropped.append(char)
            return ""
        return char

    text = collapse_spaces(_OTHER.sub(compatible, text))
    for rule, replacement in RULES:
        text = rule.sub(replacement, text)
    text = _LOOSE.sub("", _OTHER.sub(lambda match: _plain_character(match[0]) or "", text))
    return PlainText(punctuation(text), "".join(dropped))


@lru_cache(4096)
def _compatible(char: str) -> str:
    """The plain form of a compatibility character; of others, such as `½` and `²`, itself."""
    kind, _, codes = decomposition(char).partition("> ")
    if char in WORDS or not codes or kind in ("<super", "<fraction"):
        return char
    return "".join(_compatible(chr(int(code, 16))) for code in codes.split())


@lru_cache(4096)
def _plain_character(char: str) -> str | None:
    """The letters or the words for a character; None if it has neither."""
    if char in WORDS:
        return WORDS[char]
    kind = category(char)
    title = name(char, "")
    if title.startswith("SQUARED "):
        return f" {title.removeprefix('SQUARED ')} "
    if kind in ("Sm", "Sc"):
        words = title.removesuffix(" SIGN").removesuffix(" OPERATOR").lower().replace("-", " ")
        return f" {words} " if 0 < len(words.split()) <= MAX_WORDS else None
    if kind[0] == "M" or kind == "Sk":  # accents, and the skin tones of emoji
        return ""
    if kind[0] not in "LNPZ":
        return None
    base = normalize("NFD", char)[0]
    return (base if base.isascii() else anyascii(normalize("NFKC", char))) or None


_LOOSE = pattern(r"(?<!\ )\ ++(?=[.,;:!?)](?![\w=]))|(?<=\()\ ++")
_OTHER = pattern(rf"[^\n\x20-\x7EÀ-ÖØ-öø-ÿ‘’“”…–—{LINE_END}{MARKS}]")
