"""The characters that Chatterbox's tokenizers know; imports no model code."""

from collections.abc import Callable

from app.engines.chatterbox.variants import TURBO
from app.text.cleaning import collapse_spaces
from app.text.english import PlainText, plain_english
from app.text.languages import ENGLISH
from app.text.patterns import pattern
from app.text.punctuation import plain_typography

NO_CONTROL_TOKENS = str.maketrans("[]", "()")
"""All of the tokenizers' control tokens have brackets, such as `[STOP]`; their words stay."""


def plain_text(text: str, language: str = ENGLISH.code) -> PlainText:
    """`text` without unknown characters and control tokens.

    Signs become words in English only; in other languages just pictures are dropped.
    """
    plain = plain_english(text) if language == ENGLISH.code else _without_pictures(text)
    return PlainText(plain.text.translate(NO_CONTROL_TOKENS), plain.dropped)


def plain_text_with_tags(text: str, language: str = ENGLISH.code) -> PlainText:
    """As `plain_text`, but Turbo's tags stay, and its own punctuation."""
    plain = plain_english(text, plain_typography)
    return PlainText(only_tags_in_brackets(plain.text), plain.dropped)


def only_tags_in_brackets(text: str) -> str:
    """`text` with parentheses instead of brackets, except for those of Turbo's tags."""
    parts = _TAG.split(text)
    parts[::2] = [words.translate(NO_CONTROL_TOKENS) for words in parts[::2]]
    parts[1::2] = [f"[{tag.lower()}]" for tag in parts[1::2]]
    return "".join(parts)


def _without_pictures(text: str) -> PlainText:
    dropped = "".join(_PICTURE.findall(text))
    return PlainText(collapse_spaces(_PICTURE.sub(" ", text)) if dropped else text, dropped)


_PICTURE = pattern(
    r"[[\p{Extended_Pictographic}\p{Emoji_Modifier}\p{Regional_Indicator}\u20E3]--[\p{L}\p{N}\p{P}©®™]]"
)

_TAG = pattern(rf"(?i)\[({'|'.join(TURBO.tags)})\]")

PLAIN_TEXTS: dict[str, Callable[[str, str], PlainText]] = {
    "english": plain_text,
    "multilingual": plain_text,
    "turbo": plain_text_with_tags,
}
"""By `FrontendSpec.kind`."""
