"""Clean the Unicode text of a request when it is accepted, independently of the model.

Called by the speech service; jobs carry the result.
"""

from itertools import groupby, pairwise

from app.core.errors import EmptyText
from app.core.unicode import nfc
from app.text.markup import strip_markup
from app.text.patterns import LINE_BREAK, pattern
from app.text.pauses import LINE_END
from app.text.visible import visible

WRAPPED_CHARS = range(56, 121)
"""Lengths of the longest line of a paragraph that is wrapped at a fixed width."""

FULL = 0.75
"""A line of a wrapped paragraph that is shorter than this part of the longest ends on purpose.

So does one that ends a sentence, if the next word had fitted.
"""


def clean(text: str, *, markup: bool = False, dropped: list[str] | None = None) -> str:
    """Return `text` in NFC, without invisible characters and with normal spaces.

    Paragraphs stay separated by a blank line, and lines by `LINE_END` unless the paragraph is
    wrapped at a fixed width. With `markup`, Markdown, tags and entities become the text and the
    pauses (`text.pauses`) that they stand for, and what is lost with them is added to `dropped`.
    Idempotent without `markup`. Raises `EmptyText` if nothing speakable remains.
    """
    text = visible(text)
    if markup:
        text = strip_markup(text, [] if dropped is None else dropped)
    cleaned = collapse_spaces(nfc(text))
    if not SPEAKABLE.search(cleaned):
        raise EmptyText("There is nothing in this text that can be spoken.", param="text")
    return cleaned


def collapse_spaces(text: str) -> str:
    """Single spaces within a line, `LINE_END` or a blank line between two, nothing at the ends."""
    lines = LINE_BREAK.split(text.replace("\u2029", "\n\n"))
    groups = groupby(lines, lambda line: bool(line.strip()))
    paragraphs = ("\n".join(group).split(LINE_END) for filled, group in groups if filled)
    return "\n\n".join(
        LINE_END.join(filter(None, map(_unwrap, paragraph))) for paragraph in paragraphs
    )


def _unwrap(text: str) -> str:
    """Join the lines of one paragraph, each to the next by a space or by `LINE_END`."""
    lines = [tidy for line in text.split("\n") if (tidy := " ".join(line.split()))]
    width = max(map(len, lines), default=0)
    is_wrapped = width in WRAPPED_CHARS
    joined = lines[:1]
    for line, following in pairwise(lines):
        filled = len(line) + 1 + len(following.partition(" ")[0])
        is_full = filled > (width if line[-1] in ".!?:" else FULL * width)
        joined += (" " if is_wrapped and is_full else LINE_END, following)
    return "".join(joined)


_VOICED = r"[[\p{L}\p{N}\p{Sc}%‰&@#§°℃℉№]||[\p{Sm}--\p{Extended_Pictographic}--[|~]]]"
# Combining marks are capped at seven, more than any script uses, so that a grapheme with more of
# them (zalgo text) still fits a chunk.
SPEAKABLE = pattern(rf"{_VOICED}[\p{{M}}\u200C\u200D]{{0,7}}")
"""What a voice reads: a letter with its marks, a digit, a sign that has a name."""
