"""Japanese for Chatterbox Multilingual: words with kanji become hiragana.

As upstream's `hiragana_normalize` (chatterbox/models/tokenizers/tokenizer.py).
"""

from collections.abc import Callable
from pathlib import Path
from unicodedata import normalize

from app.text.patterns import pattern


def load(folder: Path) -> Callable[[str], str]:
    """Needs the package pykakasi (GPL), which brings its dictionary, and nothing of `folder`."""
    from pykakasi import kakasi

    convert = kakasi().convert

    def to_hiragana(text: str) -> str:
        words = ((word["orig"], word["hira"]) for word in convert(text))
        read = (_spaced(hiragana) if _KANJI.search(word) else word for word, hiragana in words)
        return normalize("NFKD", "".join(read))

    return to_hiragana


def _spaced(hiragana: str) -> str:
    """Those two are also read as particles, "wa" and "e", so a space shows that a word begins."""
    return f" {hiragana}" if hiragana[:1] in ("は", "へ") else hiragana


_KANJI = pattern(r"[\u4E00-\u9FFF]")
