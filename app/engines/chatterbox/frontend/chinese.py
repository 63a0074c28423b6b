"""Chinese for Chatterbox Multilingual: words set apart, characters as Cangjie codes.

As upstream's `ChineseCangjieConverter` (chatterbox/models/tokenizers/tokenizer.py), which downloads
its table and the segmenter's model; here both are files in the model's folder.
"""

import json
from collections.abc import Callable
from pathlib import Path
from unicodedata import category

from app.text.languages import LANGUAGES

CANGJIE, FEATURES, _ = LANGUAGES["zh"].files


def load(folder: Path) -> Callable[[str], str]:
    """Needs the package spacy-pkuseg. Raises OSError, ValueError and what that raises."""
    from spacy_pkuseg import pkuseg

    tokens = cangjie_tokens(json.loads((folder / CANGJIE).read_text("utf-8")))
    cut = pkuseg(str((folder / FEATURES).parent)).cut

    def to_cangjie(text: str) -> str:
        return "".join(tokens.get(char, char) for char in " ".join(cut(text)))

    return to_cangjie


def cangjie_tokens(table: list[str]) -> dict[str, str]:
    """The tokenizer's tokens for each letter of a table of `character⇥code` lines.

    Characters that share a code, but the first of them, have their index after it.
    """
    codes: dict[str, str] = {}
    indices: dict[tuple[str, str], int] = {}
    used: dict[str, int] = {}
    for line in table:
        char, code = line.split("\t")[:2]
        codes[char] = code
        indices.setdefault((char, code), used.setdefault(code, 0))
        used[code] += 1
    return {
        char: "".join(f"[cj_{letter}]" for letter in f"{code}{indices[char, code] or ''}")
        + "[cj_.]"
        for char, code in codes.items()
        if len(char) == 1 and category(char) == "Lo"
    }
