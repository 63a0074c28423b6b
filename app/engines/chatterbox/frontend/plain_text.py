"""The characters that Chatterbox's English tokenizer knows; imports no model code."""

from app.text.english import PlainText, plain_english

NO_CONTROL_TOKENS = str.maketrans("[]", "()")
"""All of the tokenizer's control tokens have brackets, such as `[STOP]`; their words stay."""


def plain_text(text: str) -> PlainText:
    """`text` without unknown characters and control tokens."""
    plain = plain_english(text)
    return PlainText(plain.text.translate(NO_CONTROL_TOKENS), plain.dropped)
