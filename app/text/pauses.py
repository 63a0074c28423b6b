"""Pauses inside a cleaned text, and their lengths in seconds.

A blank line ends a paragraph, `LINE_END` a line that is not just wrapped; a pause of another length
is one character for private use, which no text from a client keeps.
"""

from app.text.patterns import pattern

PARAGRAPH_S = 0.4
LINE_S = 0.25
MAX_BREAK_S = 5.0

LINE_END = "\u2028"
_FIRST_MARK = 0xF0000
MARKS = rf"{chr(_FIRST_MARK)}-{chr(_FIRST_MARK + round(1000 * MAX_BREAK_S))}"
"""The range of marks, for a set of characters in a pattern."""

PAUSE = pattern(rf"\s?[\n{LINE_END}{MARKS}][\s{MARKS}]*+")
"""A pause in a text with single spaces; it may consist of several."""


def mark(seconds: float) -> str:
    """Write a pause of this length, at most `MAX_BREAK_S`."""
    return chr(_FIRST_MARK + round(1000 * min(seconds, MAX_BREAK_S)))


def pause_s(pause: str) -> float:
    """The length of what `PAUSE` matches: of several pauses, the longest counts."""
    lengths = [(ord(each) - _FIRST_MARK) / 1000 for each in pause if ord(each) >= _FIRST_MARK]
    return max(PARAGRAPH_S * ("\n\n" in pause), LINE_S * (LINE_END in pause), *lengths, 0)
