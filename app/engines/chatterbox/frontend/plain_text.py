"""The characters that Chatterbox's tokenizers know; imports no model code."""

from collections.abc import Callable

from app.engines.chatterbox.variants import TURBO
from app.text.english import PlainText, plain_english
from app.text.patterns import pattern
from app.text.punctuation import plain_typography

NO_CONTROL_TOKENS = str.maketrans("[]", "()")
"""All of the tokenizer's control tokens have brackets, such as `[STOP]`; their words stay."""


def plain_text(text: str) -> PlainText:
    """`text` without unknown characters and control tokens."""
    plain = plain_english(text)
    return PlainText(plain.text.translate(NO_CONTROL_TOKENS), plain.dropped)


def plain_text_with_tags(text: str) -> PlainText:
    """As `plain_text`, but Turbo's tags stay, and its own punctuation."""
    plain = plain_english(text, plain_typography)
    return PlainText(only_tags_in_brackets(plain.text), plain.dropped)


def only_tags_in_brackets(text: str) -> str:
    """`text` with parentheses instead of brackets, except for those of Turbo's tags."""
    parts = _TAG.split(text)
    parts[::2] = [words.translate(NO_CONTROL_TOKENS) for words in parts[::2]]
    parts[1::2] = [f"[{tag.lower()}]" for tag in parts[1::2]]
    return "".join(parts)


_TAG = pattern(rf"(?i)\[({'|'.join(TURBO.tags)})\]")

PLAIN_TEXTS: dict[str, Callable[[str], PlainText]] = {
    "english": plain_text,
    "turbo": plain_text_with_tags,
}
"""By `FrontendSpec.kind`."""
