"""The characters that Chatterbox's tokenizers know; imports no model code."""

from app.text.cleaning import collapse_spaces
from app.text.english import PlainText, plain_english
from app.text.languages import ENGLISH
from app.text.patterns import pattern

NO_CONTROL_TOKENS = str.maketrans("[]", "()")
"""All of the tokenizers' control tokens have brackets, such as `[STOP]`; their words stay."""


def plain_text(text: str, language: str = ENGLISH.code) -> PlainText:
    """`text` without unknown characters and control tokens.

    Signs become words in English only; in other languages just pictures are dropped.
    """
    plain = plain_english(text) if language == ENGLISH.code else _without_pictures(text)
    return PlainText(plain.text.translate(NO_CONTROL_TOKENS), plain.dropped)


def _without_pictures(text: str) -> PlainText:
    dropped = "".join(_PICTURE.findall(text))
    return PlainText(collapse_spaces(_PICTURE.sub(" ", text)) if dropped else text, dropped)


_PICTURE = pattern(
    r"[[\p{Extended_Pictographic}\p{Emoji_Modifier}\p{Regional_Indicator}\u20E3]--[\p{L}\p{N}\p{P}©®™]]"
)
